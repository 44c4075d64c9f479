"""A token without an adapter is left alone by the corrected operations, and the others are computed as before."""

from types import ModuleType

import torch

from serving.engines.cpu_lora import OPERATIONS, correct


def shrink(inputs, weights, output, indices, scaling=1.0):
    """vLLM 0.29's operation in short: an index of -1 takes the last adapter."""
    output[:] = scaling * torch.einsum("bi,boi->bo", inputs, weights[indices])


def expand(inputs, weights, output, indices, add_inputs=True):
    change = torch.einsum("bi,boi->bo", inputs, weights[indices])
    output[:] = output + change if add_inputs else change


def modules():
    operations, user = ModuleType("operations"), ModuleType("user")
    operations.bgmv_shrink, operations.bgmv_expand, operations.bgmv_expand_slice = shrink, expand, expand
    user.bgmv_expand = expand
    correct(operations, (user,))
    return operations, user


def test_only_tokens_with_an_adapter_change():
    operations, user = modules()
    torch.manual_seed(0)
    weights, inputs = torch.randn(2, 3, 4), torch.randn(3, 4)
    indices = torch.tensor([0, -1, 1])
    for name, extra in zip(OPERATIONS, ({"scaling": 2.0}, {}, {"add_inputs": False}), strict=True):
        plain = {"bgmv_shrink": shrink}.get(name, expand)
        output, expected = torch.ones(3, 3), torch.ones(3, 3)
        getattr(operations, name)(inputs, weights, output, indices, **extra)
        plain(inputs, weights, expected, torch.tensor([0, 0, 1]), **extra)
        assert torch.equal(output[[0, 2]], expected[[0, 2]])
        assert torch.equal(output[1], torch.ones(3) if name == "bgmv_expand" else torch.zeros(3))
    assert user.bgmv_expand is operations.bgmv_expand  # those who imported it by name have it too


def test_the_inputs_are_not_touched():
    operations, _ = modules()
    inputs = torch.ones(1, 4)
    operations.bgmv_expand(inputs, torch.ones(1, 3, 4), torch.zeros(1, 3), torch.tensor([-1]))
    assert torch.equal(inputs, torch.ones(1, 4))
