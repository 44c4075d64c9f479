"""The evaluation benchmark: what it makes of its measurements, and that both sides make the same requests."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.evals import SUITES, measure, result, stock_overlay

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


@pytest.mark.slow
def test_both_sides_build_the_same_requests(tmp_path: Path, anchors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = anchors / "benchmarks"
    overlay = stock_overlay(data, tmp_path / "overlay")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arguments = argparse.Namespace(rounds=1, limit=2)
    assert measure("build", arguments, data, data, overlay)["equal"]
