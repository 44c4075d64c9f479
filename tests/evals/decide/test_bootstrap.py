"""The paired bootstrap: against scipy's, against itself, and by simulation at its nominal level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evals.decide.bootstrap import SMALLEST_STRATUM, _groups, paired_bootstrap
from evals.decide.paired import mcnemar_exact


def normal(n: int, mean: float = 0.0, seed: int = 5) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, 0.1, n))


def test_it_is_near_the_t_test_where_that_is_exact() -> None:
    values = normal(200, 0.012)
    found = paired_bootstrap(values)
    oracle = stats.ttest_1samp(values, 0.0)
    assert found.difference == pytest.approx(float(np.mean(values)))
    assert found.stderr == pytest.approx(float(stats.sem(values)))
    assert found.p_value == pytest.approx(oracle.pvalue, abs=0.01)
    assert found.interval() == pytest.approx(tuple(oracle.confidence_interval(0.95)), abs=0.0005)
    assert found.lower(0.95) == pytest.approx(oracle.confidence_interval(0.9).low, abs=0.0005)
    assert found.upper(0.95) == pytest.approx(oracle.confidence_interval(0.9).high, abs=0.0005)


def test_it_is_near_scipys_bca_on_skewed_values() -> None:
    values = list(np.random.default_rng(3).exponential(0.05, 400) - 0.04)
    oracle = stats.bootstrap((values,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0))
    found = paired_bootstrap(values)
    low, high = found.upper(0.975), found.lower(0.975)
    assert (high, low) == pytest.approx(tuple(oracle.confidence_interval), abs=0.001)


def test_a_p_value_and_an_interval_never_contradict_each_other() -> None:
    for seed in range(40):
        found = paired_bootstrap(normal(60, 0.02, seed), resamples=999)
        low, high = found.interval(0.95)
        assert (found.p_value <= 0.05) == (low > 0 or high < 0)


def test_it_is_the_same_every_time_and_mirrors() -> None:
    values = normal(100, 0.01)
    assert paired_bootstrap(values).p_value == paired_bootstrap(values).p_value
    mirrored = paired_bootstrap([-value for value in values])
    assert mirrored.p_value == pytest.approx(paired_bootstrap(values).p_value, abs=0.01)
    low, high = paired_bootstrap(values).interval()
    assert mirrored.interval() == pytest.approx((-high, -low), abs=1e-3)


def test_strata_take_out_what_lies_between_them() -> None:
    """Subjects that differ greatly, values within them hardly: the stratified error is the within-subject one."""
    rng = np.random.default_rng(1)
    strata = [f"s{number % 10}" for number in range(300)]
    values = [(int(name[1:]) - 4.5) / 10 + rng.normal(0, 0.02) for name in strata]
    stratified, plain = paired_bootstrap(values, strata), paired_bootstrap(values)
    within = sum(
        np.var([v for v, s in zip(values, strata, strict=True) if s == name], ddof=1) / 30 / 100 for name in set(strata)
    )
    assert stratified.stderr == pytest.approx(math.sqrt(within))
    assert plain.stderr > 8 * stratified.stderr
    assert stratified.difference == pytest.approx(plain.difference)


def test_weights_make_an_average_of_averages() -> None:
    values, strata = [*normal(30, 0.1), *normal(90, 0.0)], ["a"] * 30 + ["b"] * 90
    found = paired_bootstrap(values, strata, [1 / 60] * 30 + [1 / 180] * 90)
    assert found.difference == pytest.approx((np.mean(values[:30]) + np.mean(values[30:])) / 2)
    expected = math.sqrt(stats.sem(values[:30]) ** 2 / 4 + stats.sem(values[30:]) ** 2 / 4)
    assert found.stderr == pytest.approx(expected)


def test_small_strata_are_joined_and_nothing_is_lost() -> None:
    strata = [f"s{number % 57:02}" for number in range(114)] + ["large"] * 50
    groups = _groups(strata)
    assert sorted(index for group in groups for index in group) == list(range(164))
    assert all(len(group) >= SMALLEST_STRATUM for group in groups)
    assert _groups(["a", "b"]) == [[0, 1]]


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.25] * 30, [1.0, 1.0, 1.0] + [0.0] * 50])
def test_few_changes_never_prove_more_than_the_sign_test(values: list[float]) -> None:
    positive = sum(value > 0 for value in values)
    assert paired_bootstrap(values).p_value >= mcnemar_exact(positive, 0)


def test_models_that_do_not_differ() -> None:
    found = paired_bootstrap([0.0] * 50)
    assert (found.difference, found.stderr, found.p_value) == (0.0, 0.0, 1.0)
    assert found.interval() == (0.0, 0.0)


SCENARIOS = {
    "mc2, 100 questions, skewed": lambda rng: (rng.exponential(0.1, 100) - 0.1, None),
    "mc2, 817 questions, heavy tails": lambda rng: (np.clip(rng.standard_t(3, 817) / 10, -1, 1), None),
    "mmlu, 20 subjects of 30, a tenth changed": lambda rng: (
        rng.choice([-1.0, 0.0, 1.0], 600, p=[0.05, 0.9, 0.05]),
        [f"s{number % 20}" for number in range(600)],
    ),
    "mmlu, few changed": lambda rng: (
        rng.choice([-1.0, 0.0, 1.0], 300, p=[0.02, 0.96, 0.02]),
        [f"s{number % 10}" for number in range(300)],
    ),
}


def simulate(name: str, runs: int) -> tuple[float, float, float]:
    """Shares of runs with p <= 0.05, whose 95 % interval leaves out 0, and whose lower one-sided bound is above 0."""
    rng = np.random.default_rng(11)
    rejected = missed = one_sided = 0
    for run in range(runs):
        values, strata = SCENARIOS[name](rng)
        found = paired_bootstrap(values, strata, seed=run, resamples=399)
        low, high = found.interval(0.95)
        rejected += found.p_value <= 0.05
        missed += low > 0 or high < 0
        one_sided += found.lower(0.95) > 0
    return rejected / runs, missed / runs, one_sided / runs


@pytest.mark.parametrize("name", SCENARIOS)
def test_errors_are_at_the_nominal_level(name: str) -> None:
    """300 pairs of equal models; the bounds are four standard errors of such a count."""
    rejected, missed, one_sided = simulate(name, 300)
    assert rejected <= 0.05 + 0.05
    assert missed <= 0.05 + 0.05
    assert one_sided <= 0.05 + 0.05
    assert rejected <= missed  # the sign test only ever takes away


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_errors_are_at_the_nominal_level_over_many_runs(name: str) -> None:
    rejected, missed, one_sided = simulate(name, 5000)
    print(f"{name}: rejected {rejected:.3%}, interval missed {missed:.3%}, one-sided {one_sided:.3%}")
    assert rejected <= 0.062
    assert 0.035 <= missed <= 0.065
    assert one_sided <= 0.075
