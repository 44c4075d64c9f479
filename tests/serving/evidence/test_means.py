"""Means: the mixture against published values and the integral that it stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import nct, skew, t

from serving.evidence import means
from serving.evidence.means import Moments, compare

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


def moments(numbers: list[float] | np.ndarray) -> Moments:
    total = Moments()
    for number in numbers:
        total = total.add(float(number))
    return total


def normal(n: int, mean: float = 0.0, deviation: float = 1.0) -> Moments:
    return Moments(n, mean, (n - 1) * deviation**2)


def test_many_units_give_robbins_normal_mixture() -> None:
    """Golden: targets in the tests of confseq (Howard, Ramdas, McAuliffe and Sekhon): the two-sided normal mixture
    with rho = 12.60056 is -0.6510052 at a sum of 10 and a variance of 100; its 5 % boundary there is 30.35209."""
    precision = means._Precision(variance=100.0, freedom=1e9, gain=100 / 12.60056)
    assert precision.log_evidence(10.0) == pytest.approx(-0.6510052, abs=1e-5)
    assert precision.half_width(0.05) == pytest.approx(30.35209, abs=1e-4)


def test_the_evidence_is_the_bayes_factor_of_the_t_statistic() -> None:
    """Gönen, Johnson, Lu and Westfall 2005: the t statistic's density, mixed over normal standardised differences."""
    n_old, n_new, gap = 60, 75, 0.4
    found = compare(normal(n_old), normal(n_new, gap), margin=0.0, alpha=0.05)
    effective = 1 / (1 / n_old + 1 / n_new)
    statistic = gap * math.sqrt(effective)
    freedom = n_old + n_new - 2

    def density(difference: float) -> float:
        prior = math.exp(-0.5 * (difference / 0.2) ** 2) / (0.2 * math.sqrt(2 * math.pi))
        return nct.pdf(statistic, freedom, difference * math.sqrt(effective)) * prior

    mixed, _ = quad(density, -1.6, 1.6, limit=200)
    # Welch's degrees of freedom are 132.4 here instead of 133
    assert found.log_e_harm == pytest.approx(math.log(mixed / t.pdf(statistic, freedom)), abs=0.01)


@settings(deadline=None)
@given(values, values)
def test_moments_are_numpys_in_any_order_and_any_parts(first: list[float], second: list[float]) -> None:
    merged = moments(first) + moments(second)
    whole = moments(sorted(first + second))
    together = np.array(first + second)
    scale = 1 + np.abs(together).max()
    assert merged.n == whole.n == together.size
    for found in (merged, whole):
        assert found.mean == pytest.approx(together.mean(), abs=1e-9 * scale)
        assert found.m2 == pytest.approx(((together - together.mean()) ** 2).sum(), abs=1e-7 * scale**2)
        assert found.m3 == pytest.approx(((together - together.mean()) ** 3).sum(), abs=1e-6 * scale**3)


sums = st.builds(
    lambda n, mean, deviation: normal(n, mean, deviation), st.integers(60, 10**6), st.floats(-3, 3), st.floats(0.1, 5)
)


@settings(deadline=None)
@given(sums, sums, st.floats(0, 1), st.sampled_from([0.05, 0.0025]), st.booleans(), st.booleans())
def test_passing_and_harm_are_the_sequence_beyond_the_margin(
    baseline: Moments, candidate: Moments, margin: float, alpha: float, lower: bool, relative: bool
) -> None:
    found = compare(baseline, candidate, margin=margin, alpha=alpha, lower_is_better=lower, relative=relative)
    assert found.low is not None and found.high is not None
    assert found.low <= (found.estimate or 0.0) <= found.high
    threshold = math.log(1 / alpha)
    if lower:
        passes, harms = found.high < margin, found.low > margin
        near = min(abs(found.high - margin), abs(found.low - margin))
    else:
        passes, harms = found.low > -margin, found.high < -margin
        near = min(abs(found.low + margin), abs(found.high + margin))
    if near > 1e-9:
        assert (found.log_e_pass >= threshold) == passes
        assert (found.log_e_harm >= threshold) == harms


@settings(deadline=None)
@given(sums, sums, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_wider_margin_is_easier_to_hold(baseline: Moments, candidate: Moments, margin: float, more: float) -> None:
    tight = compare(baseline, candidate, margin=margin, alpha=0.05)
    loose = compare(baseline, candidate, margin=margin + more, alpha=0.05)
    assert loose.log_e_pass >= tight.log_e_pass - 1e-9
    assert loose.log_e_harm <= tight.log_e_harm + 1e-9


@settings(deadline=None)
@given(sums, sums)
def test_swapped_arms_mirror_each_other(baseline: Moments, candidate: Moments) -> None:
    straight = compare(baseline, candidate, margin=0.1, harm=0.1, alpha=0.05)
    swapped = compare(candidate, baseline, margin=-0.1, harm=-0.1, alpha=0.05)
    assert straight.low is not None and swapped.high is not None
    assert swapped.high == pytest.approx(-straight.low)
    assert swapped.log_e_harm == pytest.approx(straight.log_e_pass)


def test_a_ratio_is_the_difference_of_logs() -> None:
    found = compare(
        normal(5000, math.log(0.2), 0.5), normal(5000, math.log(0.22), 0.5), margin=0.2, alpha=0.05, relative=True
    )
    assert found.estimate == pytest.approx(0.1)
    assert found.low is not None and found.high is not None
    assert (1 + found.low) * (1 + found.high) == pytest.approx(1.1**2)
    assert found.p_pass < 0.01


def test_nothing_is_said_before_the_burn_in_is_over() -> None:
    few = compare(normal(means.BURN_IN - 1), normal(1000, 100.0), margin=0.0, alpha=0.05)
    assert (few.low, few.high, few.log_e_harm, few.log_e_pass) == (None, None, 0.0, 0.0)
    assert few.estimate == 100.0
    assert compare(Moments(), normal(1000), margin=0.0, alpha=0.05).estimate is None


def test_skewed_values_need_more_units() -> None:
    numbers = np.zeros(4000)
    numbers[::100] = np.linspace(1, 10, 40)
    arm = moments(numbers)
    needed = means.burn_in(arm, arm)
    assert needed == pytest.approx(means.BURN_IN + means.SKEWED_UNITS * skew(numbers) ** 2)
    assert needed > 2000
    assert compare(arm, moments(numbers[:1000]), margin=0.1, alpha=0.05).low is None


def test_values_that_never_vary_are_told_apart_at_once() -> None:
    found = compare(normal(100, 1.0, 0.0), normal(100, 2.0, 0.0), margin=0.5, alpha=0.05)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.p_harm == 0.0 and found.p_pass == 1.0


def test_values_that_are_no_numbers_are_refused() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not a finite number"):
            Moments().add(value)
