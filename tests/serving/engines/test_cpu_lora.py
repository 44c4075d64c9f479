"""A token without an adapter is left alone by the corrected operations; a prompt's tokens take their own adapter."""

from types import ModuleType

import torch

from serving.engines.cpu_lora import OPERATIONS, SAMPLED, correct, with_prompts_rows


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


class Wrapper:
    """What vLLM's wrapper for CPUs has of it: each token's adapter, and that of each request which draws a token."""

    def __init__(self, tokens: list[int], drawing: list[int]) -> None:
        self.token_lora_indices = torch.tensor(tokens)
        self._sampler_indices = torch.full((16,), 9)
        self._sampler_indices[: len(drawing)] = torch.tensor(drawing)
        self.indices_len = [len(tokens), len(drawing), None, None]

    @property
    def sampler_indices(self):
        return self._sampler_indices[: self.indices_len[SAMPLED]]

    @with_prompts_rows
    def add_lora_logits(self, logits, states):
        logits += self.sampler_indices[:, None]


def test_a_prompts_tokens_take_their_requests_adapter_and_drawn_ones_the_tables():
    """Three requests of three, two and two tokens, with the adapters 0, 1 and none."""
    wrapper = Wrapper([0, 0, 0, 1, 1, -1, -1], [0, 1, -1])
    hidden = torch.zeros(7, 4)
    for first, rows, adapter in ((0, 2, 0), (3, 2, 1), (5, 1, -1), (4, 3, None), (0, 7, None)):
        logits = torch.zeros(rows, 5)
        wrapper.add_lora_logits(logits, hidden[first : first + rows])
        expected = wrapper.token_lora_indices[first : first + rows]
        assert logits[:, 0].tolist() == expected.tolist()
        assert adapter is None or set(expected.tolist()) == {adapter}
        drawn = torch.zeros(3, 5)
        wrapper.add_lora_logits(drawn, hidden[torch.tensor([2, 4, 6])])
        assert drawn[:, 0].tolist() == [0, 1, -1]
