"""Which way of a metric is up."""

from __future__ import annotations

import pytest

from evals.decide.metrics import direction, sides


@pytest.mark.parametrize(
    "metric",
    ["wer", "cer", "ter", "TER", "mae", "mse", "rmse", "brier_score", "word_error_rate", "edit_distance", "wer@strict"],
)
def test_of_errors_less_is_better(metric: str) -> None:
    assert direction(metric) == -1


@pytest.mark.parametrize(
    "metric", ["acc", "acc_norm", "answer_f1", "certainty", "character_match", "generated", "bleu_diff", "rougeL"]
)
def test_of_the_others_more_is(metric: str) -> None:
    assert direction(metric) == 1


def test_of_a_stereotypes_share_neither_is() -> None:
    """Whatever the task says: lm-eval's file of CrowS-Pairs calls less better."""
    assert direction("pct_stereotype") == direction("pct_stereotype", {"pct_stereotype": False}) == 0


def test_the_task_is_believed_before_the_metrics_name() -> None:
    told = {"acc": False, "loss": True, "odd": None}
    assert [direction(metric, told) for metric in ("acc", "acc@strict", "loss", "odd", "f1")] == [-1, -1, 1, 0, 1]
    assert direction("generation_score") == 1  # holds "ratio"


def test_a_suites_side_is_that_on_which_its_tasks_agree() -> None:
    told = {
        "a": {"acc": True, "cost": False, "x": True, "y": None},
        "b": {"acc": True, "cost": False, "x": False, "y": True},
        "alone": {"wer": False},
    }
    found = sides(told, {"group": ["a", "b"], "alone": ["alone"], "unknown": ["c"]})
    assert found["group"] == {"acc": True, "cost": False, "x": None, "y": True}
    assert found["a"] == {"acc": True, "cost": False, "x": True}
    assert (found["alone"], found["unknown"]) == ({"wer": False}, {})
