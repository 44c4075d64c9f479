"""Gradual unfreezing, layer-wise rates and L2-SP: which parameters move, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.methods import load_base
from pipelines.train.optimizer import make_optimizer
from pipelines.train.shaping import Shaping, depths_of


def layer_of(name: str) -> str:
    """The part of the model that a llama's parameter belongs to."""
    if "layers." in name:
        return "layer " + name.split("layers.")[1].split(".")[0]
    return "embedding" if "embed" in name else "top"


def test_depths_go_from_the_output_down(bases: dict[str, Path]) -> None:
    for architecture in ("llama", "gpt2"):
        model = load_base(bases[architecture])
        depths = depths_of(model)
        assert depths.keys() == {name for name, _ in model.named_parameters()}
        for name, depth in depths.items():
            if architecture == "llama":
                assert depth == {"top": 0, "layer 1": 1, "layer 0": 2, "embedding": 3}[layer_of(name)], name
        assert set(depths.values()) == {0, 1, 2, 3}


def moved(model: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {layer_of(name) for name, each in model.named_parameters() if not torch.equal(each, before[name])}


def step(model: Any, optimizer: Any, number: int, rate: float = 1e-2) -> dict[str, torch.Tensor]:
    """A step with random gradients; the weights before it."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    generator = torch.Generator().manual_seed(number)
    for each in model.parameters():
        each.grad = torch.randn(each.shape, generator=generator).sign()  # none so small that AdamW's epsilon matters
    optimizer.freeze(number)
    optimizer.step(rate, number)
    return before


def test_layers_are_unfrozen_from_the_last_one_down(bases: dict[str, Path]) -> None:
    model = load_base(bases["llama"])
    optimizer = make_optimizer(model, FinetuneConfig(method="full", unfreeze_every_steps=2, workers=1))
    seen = []
    for number in range(6):
        before = step(model, optimizer, number)
        seen.append(moved(model, before))
    first = {"top", "layer 1"}
    assert seen == [first, first, first | {"layer 0"}, first | {"layer 0"}] + [first | {"layer 0", "embedding"}] * 2


def test_a_layer_that_was_frozen_begins_like_a_new_one_also_after_a_checkpoint(bases: dict[str, Path]) -> None:
    """Its first step is AdamW's first step (its size the learning rate), with no memory of when it was frozen."""
    model = load_base(bases["llama"])
    optimizer = make_optimizer(model, FinetuneConfig(method="full", unfreeze_every_steps=2, workers=1))
    step(model, optimizer, 0)
    optimizer.state()  # what a checkpoint asks for: it makes memory for all, which must count as none
    step(model, optimizer, 1)
    name = "model.layers.0.mlp.up_proj.weight"
    before = step(model, optimizer, 2, rate=1e-3)
    change = (model.get_parameter(name) - before[name]).abs()
    assert torch.allclose(change, torch.full_like(change, 1e-3), rtol=1e-3)


def test_each_layer_moves_by_its_share_of_the_rate(bases: dict[str, Path]) -> None:
    """AdamW's first step is the learning rate in size, whatever the gradient: each layer shows its own rate."""
    model = load_base(bases["llama"])
    optimizer = make_optimizer(model, FinetuneConfig(method="full", layer_decay=0.5, workers=1))
    before = step(model, optimizer, 0, rate=1e-2)
    expected = {"top": 1e-2, "layer 1": 5e-3, "layer 0": 2.5e-3, "embedding": 1.25e-3}
    for name, each in model.named_parameters():
        change = (each - before[name]).abs()
        assert torch.allclose(change, torch.full_like(change, expected[layer_of(name)]), rtol=2e-3), name


def test_l2_sp_pulls_by_its_strength_times_the_way_gone(bases: dict[str, Path]) -> None:
    from pipelines.train.config import TrainConfig
    from pipelines.train.group import Group
    from pipelines.train.parallel import arrange
    from pipelines.train.shaping import Pull

    model = load_base(bases["llama"])
    runner = arrange(model, TrainConfig(workers=1), Group())
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    pull = Pull(0.25, runner)
    for name, each in model.named_parameters():
        each.data.add_(0.1 * torch.ones_like(each))
        each.grad = None if "norm" in name else torch.ones_like(each)
    pull.add_to(runner)
    # The gradient of strength / 2 * sum((w - start)^2), by autograd.
    for name, each in model.named_parameters():
        if each.grad is None:
            assert "norm" in name  # what has no gradient, because it is frozen, is not pulled
            continue
        point = each.detach().clone().requires_grad_()
        (0.125 * (point - start[name]).square().sum()).backward()
        assert torch.allclose(each.grad, 1 + point.grad, atol=1e-7)


@pytest.mark.parametrize(("depth", "step_number", "expected"), [(0, 0, 1.0), (1, 0, 0.5), (2, 9, 0.0), (2, 10, 0.25)])
def test_factors(depth: int, step_number: int, expected: float) -> None:
    assert Shaping({}, layer_decay=0.5, unfreeze_every_steps=10).factor(depth, step_number) == expected
