"""The evaluation benchmark: what it makes of its measurements, and that both sides make the same requests."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from benchmarks.evals import SUITES, largest_difference, long_context, measure, result, stock_overlay

SAMPLE = Path(__file__).parents[2] / "evals" / "sample"


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    measured = result("build", [1.0, 2.0, 1.0], [20.0, 20.0, 30.0], "lm_eval 0", equal=True)
    assert (measured["ratio"], measured["rounds"]) == (20.0, [20.0, 10.0, 30.0])
    assert (measured["ours"], measured["peer_value"], measured["unit"], measured["equal"]) == (1.0, 20.0, "s", True)


def test_the_peer_gets_the_official_files_and_only_another_place(tmp_path: Path) -> None:
    overlay = stock_overlay(SAMPLE, tmp_path / "overlay")
    lines = (overlay / "arc_easy-arc_easy.yaml").read_text().splitlines()
    assert lines[0].endswith("lm_eval/tasks/arc/arc_easy.yaml")
    assert lines[1:] == ["task: arc_easy", f"dataset_path: {SAMPLE / 'allenai/ai2_arc'}"]
    assert len(list(overlay.iterdir())) == 4 + 57 + 5
    assert len(SUITES) == 5


def test_answers_are_held_against_each_other_by_question() -> None:
    own = {("a", 0): [-1.0, -2.0], ("b", 1): [-3.0]}
    assert largest_difference(own, {("b", 1): [-3.5], ("a", 0): [-1.0, -2.25]}) == 0.5
    assert largest_difference(own, {("a", 0): [-1.0, -2.0]}) == math.inf
    with pytest.raises(ValueError, match="shorter"):
        largest_difference(own, own | {("a", 0): [-1.0]})


def test_only_the_context_of_the_copy_is_another(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 512, "vocab_size": 9}')
    (tmp_path / "model" / "weights").write_text("w")
    copy = long_context(tmp_path / "model", tmp_path / "copy", 2048)
    assert json.loads((copy / "config.json").read_text()) == {"max_position_embeddings": 2048, "vocab_size": 9}
    assert (copy / "weights").read_text() == "w"


@pytest.mark.slow
def test_both_sides_build_the_same_requests(tmp_path: Path, anchors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = anchors / "benchmarks"
    overlay = stock_overlay(data, tmp_path / "overlay")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arguments = argparse.Namespace(rounds=1, limit=2)
    assert measure("build", arguments, data, data, overlay)["equal"]
