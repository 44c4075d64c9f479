"""The weights that an engine is given are those of the merged model, and training's stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.align.actor import add_value_head
from pipelines.align.config import AlignConfig
from pipelines.align.policy_weights import whole_weights
from pipelines.align.weights import trainable
from pipelines.models.gpt2 import build_gpt2
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape


def built(architecture: str, tied: bool) -> Any:
    torch.manual_seed(1)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48, tie_embeddings=tied)
    build = {"llama": build_llama, "gpt2": build_gpt2}[architecture]
    return build(shape, vocab_size=20, max_positions=16, bos_id=0, eos_id=1, pad_id=2)


@pytest.mark.parametrize(("architecture", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_adapters_are_added_and_the_base_does_not_move(architecture: str, tied: bool) -> None:
    config = AlignConfig.model_validate({"method": "ppo", "reward": "a:b", "rank": 4, "alpha": 8})
    model = trainable(built(architecture, tied), config)
    add_value_head(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = whole_weights(model, torch.float32)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    whole = model.merge_and_unload()
    expected = dict(whole.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], each) for name, each in expected.items())
    assert ("lm_head.weight" in found) != tied
    start = built(architecture, tied).state_dict()
    assert any(not torch.equal(found[name], start[name]) for name in found)


def test_of_a_whole_model_the_value_head_is_left_out_and_numbers_are_rounded() -> None:
    model = built("llama", True)
    add_value_head(model)
    found = whole_weights(model, torch.bfloat16)
    assert "value_head.weight" not in found
    assert found.keys() == dict(built("llama", True).named_parameters()).keys()
    assert {each.dtype for each in found.values()} == {torch.bfloat16}
