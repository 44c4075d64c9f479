from __future__ import annotations

import math

import pytest

from pipelines.train.config import TrainConfig
from pipelines.train.schedule import learning_rate


def test_golden_values_of_warmup_and_cosine() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_fraction=0.2, final_learning_rate_fraction=0.1)
    rates = [learning_rate(config, step, 11) for step in range(11)]
    # By hand: 2 steps of warm-up, then 0.1 + 0.9 * (1 + cos(pi * k / 8)) / 2 for k = 0 … 8.
    cosine = [0.1 + 0.45 * (1 + math.cos(math.pi * k / 8)) for k in range(9)]
    assert rates == pytest.approx([0.5, 1.0, *cosine])
    assert rates[2:] == pytest.approx(
        [1.0, 0.965746, 0.868198, 0.722208, 0.55, 0.377792, 0.231802, 0.134254, 0.1], abs=1e-6
    )


def test_linear_and_constant() -> None:
    linear = TrainConfig(learning_rate=2.0, warmup_fraction=0.0, final_learning_rate_fraction=0.0, schedule="linear")
    assert [learning_rate(linear, step, 5) for step in range(5)] == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    constant = TrainConfig(learning_rate=2.0, warmup_fraction=0.5, schedule="constant")
    assert [learning_rate(constant, step, 4) for step in range(4)] == pytest.approx([1.0, 2.0, 2.0, 2.0])


def test_one_step_is_enough() -> None:
    assert learning_rate(TrainConfig(learning_rate=1.0), 0, 1) == 1.0


def test_wsd_stays_and_then_falls() -> None:
    """By hand: warm-up of two steps, the top until 6 of 10, then a line over the last 4 to a tenth."""
    config = TrainConfig(
        learning_rate=1.0, schedule="wsd", warmup_fraction=0.2, decay_fraction=0.4, final_learning_rate_fraction=0.1
    )
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1])
