"""The promise itself: with a look after every user, at most alpha of 10,000 A/A steps raise an alarm."""

from __future__ import annotations

import numpy as np

from serving.evidence.simulation import (
    Errors,
    Scenario,
    errors_of_means,
    errors_of_quantiles,
    errors_of_rates,
    errors_of_ratio,
)

RUNS, ALPHA = 10_000, 0.05


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
