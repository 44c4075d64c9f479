"""Which way of a metric is up."""

from __future__ import annotations

import pytest

from evals.decide.metrics import direction


@pytest.mark.parametrize(
    "metric",
    ["wer", "cer", "ter", "TER", "mae", "mse", "rmse", "brier_score", "word_error_rate", "edit_distance", "wer@strict"],
)
def test_of_errors_less_is_better(metric: str) -> None:
    assert direction(metric) == -1


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "answer_f1", "certainty", "character_match"])
def test_of_the_others_more_is(metric: str) -> None:
    assert direction(metric) == 1


def test_of_a_stereotypes_share_neither_is() -> None:
    assert direction("pct_stereotype") == 0
