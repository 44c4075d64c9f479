"""The fine-tuning benchmark takes turns, and both of its sides read and train the same things."""

from __future__ import annotations

import pytest

from benchmarks import finetuning


@pytest.mark.slow
def test_both_sides_train_the_same_parameters_on_as_many_tokens() -> None:
    found = finetuning.examples(40)
    assert all(each.learned.count(True) == len(each) - len(each) // 2 for each in found)
    result = finetuning.measure("lora", turns=1, steps=1)
    assert result["name"] == "lora" and result["peer"] == "bare peft loop"
    assert result["ours"] > 0 and result["peer_value"] > 0
    assert result["ratio"] == result["ours"] / result["peer_value"]
