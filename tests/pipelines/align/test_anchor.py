"""Preferences on a real pretrained model: a rule that is learned, and real pairs that run."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipelines.align.config import AlignConfig
from pipelines.align.records import read_records
from pipelines.finetune.examples.divide import split
from pipelines.finetune.examples.records import Preference, asked, to_jsonl

pytestmark = [pytest.mark.anchor, pytest.mark.slow]

NAMES = ("Tom", "Lily", "Ben", "Sue", "Max", "Anna", "Tim", "Mia")
ANIMALS = ("dog", "cat", "bird", "fish", "bear", "frog", "duck", "cow")


def rule_based() -> list[Preference]:
    """The better answer goes on about another animal than the one that was seen: what the model would not do."""
    pairs = []
    for number, (name, animal) in enumerate(product(NAMES, ANIMALS)):
        other = ANIMALS[(ANIMALS.index(animal) + 1 + number % 7) % 8]
        prompt = asked(f"Once upon a time, {name} saw a {animal}. ")
        pairs.append(Preference(prompt, f"The {other} was nice.", f"The {animal} was nice.", f"rule:{number + 1}"))
    return pairs


@pytest.fixture
def stories(tmp_path: Path, anchors: Path, publish_model: Any, bench_of: Any) -> Callable[..., Any]:
    """An alignment of the real model on the given records."""

    def run(records: list[Preference], **fields: Any) -> dict[str, Any]:
        train, validation = split(records, 0.3, "align.data")
        rows = {"train": to_jsonl(train), "validation": to_jsonl(validation)}
        bench = bench_of(tmp_path / "store", publish_model, anchors / "models" / "stories260K-hd32", rows)
        settings = {"validation_sequences": 64, "batch_sequences": 8, "checkpoint_every_steps": 50}
        result: dict[str, Any] = bench.run(bench.task(**settings | fields, template="plain"))
        return result

    return run


@pytest.mark.parametrize(
    "fields", [{"method": "dpo", "beta": 0.5, "learning_rate": 2e-3}, {"method": "simpo", "learning_rate": 5e-3}]
)
def test_a_rule_is_learned_and_holds_for_unseen_prompts(stories: Any, fields: dict[str, Any]) -> None:
    summary = stories(rule_based(), steps=80, rank=8, alpha=16, **fields)
    checks = [each for each in summary["records"] if each["kind"] == "validation"]
    assert checks[0]["accuracy"] <= 0.5
    assert checks[-1]["accuracy"] >= 0.8


def test_real_pairs_are_read_and_trained_on(stories: Any, anchors: Path) -> None:
    config = AlignConfig.model_validate({"data": str(anchors / "corpora" / "preference" / "dpo_en_demo.json")})
    read = read_records(config)
    assert (len(read.records), read.bad) == (295, [])  # of 300 rows five repeat others
    summary = stories(read.records, steps=6, too_long="drop", batch_sequences=4)
    assert summary["details"]["too_long"] > 0
    losses = [each["loss"] for each in summary["records"] if each["kind"] == "train"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: no opinion yet
    # Each step has other pairs: what they lose says nothing of what was learned, but that something was.
    assert all(math.isfinite(loss) for loss in losses)
    assert abs(losses[-1] - losses[0]) > 1e-3
    assert summary["details"]["export_difference"] <= 1e-4
