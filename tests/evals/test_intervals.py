"""Intervals against scipy's, and their coverage by exact enumeration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.intervals import interval, normal, verdict, wilson


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    successes, n = case
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_wilson_covers_the_truth_about_as_often_as_it_says(share: float) -> None:
    """Exact coverage at n = 40, the size of a sample task (no simulation)."""
    covered = sum(stats.binom.pmf(k, 40, share) for k in range(41) if wilson(k, 40)[0] <= share <= wilson(k, 40)[1])
    assert 0.93 <= covered <= 0.98


def test_normal_is_scipys() -> None:
    assert normal(0.4, 0.02) == pytest.approx(stats.norm.interval(0.95, 0.4, 0.02))


def test_right_or_wrong_uses_wilson_and_anything_else_the_standard_error() -> None:
    assert interval([0, 1, 1, 1], 0.75, 0.25) == wilson(3, 4)
    assert interval([0.2, 0.6], 0.4, 0.2) == normal(0.4, 0.2)
    assert interval([0.4], 0.4, None) is None
    assert interval([0.4, 0.4], 0.4, math.nan) is None


def test_the_verdict_says_only_what_the_interval_shows() -> None:
    assert verdict((0.26, 0.4), 0.25) == "above chance"
    assert verdict((0.1, 0.2), 0.25) == "below chance"
    assert verdict((0.2, 0.3), 0.25) == "not told from chance"
    assert verdict(None, 0.25) == ""
