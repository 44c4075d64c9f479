"""The promise itself: with a look after every user, at most alpha of 10,000 A/A steps raise an alarm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from serving.evidence.bounded import Tally
from serving.evidence.means import Moments
from serving.evidence.planning import Design, detectable_harm
from serving.evidence.simulation import (
    Errors,
    Scenario,
    errors_of_means,
    errors_of_quantiles,
    errors_of_rates,
    errors_of_ratio,
)

RUNS, ALPHA = 10_000, 0.05

Alarms = Callable[[float], int]


def bernoulli(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (rng.random(shape) < 0.05).astype(float)


def log_seconds(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape)


def seconds(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return 0.1 / rng.random(shape) ** (1 / 1.5)


def check(found: Errors) -> None:
    assert found.runs >= 1000
    assert found.harm <= ALPHA * found.runs
    assert found.missed <= ALPHA * found.runs  # coverage is at least 1 - alpha


def test_rates() -> None:
    found = errors_of_rates(Scenario("A/A", bernoulli, 0.05, users=500), RUNS, ALPHA, seed=1)
    check(found)
    assert found.naive > 2 * ALPHA  # the usual test does not survive the looking


def test_means_of_logs() -> None:
    check(errors_of_means(Scenario("A/A", log_seconds, 0.0, users=500), RUNS, ALPHA, seed=2))


def test_quantiles_of_heavy_tails() -> None:
    truth = 0.1 * 0.05 ** (-1 / 1.5)
    check(errors_of_quantiles(Scenario("A/A", seconds, truth, users=500, every=5), RUNS, ALPHA, seed=3))


def test_the_sample_ratio() -> None:
    assert errors_of_ratio(0.01, 0.01, users=500, runs=RUNS, alpha=ALPHA, seed=4) <= ALPHA
    assert errors_of_ratio(0.5, 0.6, users=500, runs=300, alpha=ALPHA, seed=5) > 0.8


def test_the_simulation_can_fail() -> None:
    """A candidate that is worse than it is said to be must look like a broken promise."""
    scenario = Scenario(
        "hidden harm", bernoulli, 0.05, candidate=lambda rng, shape: (rng.random(shape) < 0.3).astype(float), users=500
    )
    found = errors_of_rates(scenario, 100, ALPHA, seed=6)
    assert found.harm > 90


POWER_USERS, POWER_RUNS = 1000, 60
DESIGN = Design(share=0.5, alpha=ALPHA, power=0.8, minimum_units=500, units_per_second=1.0)


def alarms_for_rates(effect: float) -> int:
    harmed = Scenario("harm", bernoulli, 0.05, candidate=lambda r, n: (r.random(n) < 0.05 + effect) * 1.0, users=1000)
    return errors_of_rates(harmed, POWER_RUNS, ALPHA, seed=7).harm


def alarms_for_means(effect: float) -> int:
    harmed = Scenario("harm", log_seconds, 0.0, candidate=lambda r, n: log_seconds(r, n) + effect, users=1000)
    return errors_of_means(harmed, POWER_RUNS, ALPHA, seed=8).harm


@pytest.mark.parametrize(
    ("typical", "alarms"), [(Tally(1000, 50.0), alarms_for_rates), (Moments(1000, 0.0, 999.0), alarms_for_means)]
)
def test_harm_of_the_size_that_a_plan_names_raises_the_alarm(typical: Tally | Moments, alarms: Alarms) -> None:
    """Minimum detectable effect: as often as the wanted power says, and a third of it hardly ever."""
    effect = detectable_harm(typical, POWER_USERS, DESIGN)
    assert alarms(effect) >= (DESIGN.power - 0.15) * POWER_RUNS  # three standard errors
    assert alarms(effect / 3) < 0.4 * POWER_RUNS
