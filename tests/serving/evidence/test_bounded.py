"""Rates: the Beta mixture against published values and exact fractions, the minimisation against grids."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import betaln

from serving.evidence import bounded
from serving.evidence.bounded import Tally, compare, greatest_log_likelihood, log_mixture

arms = st.integers(1, 5000).flatmap(lambda n: st.floats(0, 1).map(lambda share: Tally(n, float(round(share * n)))))


def on_grid(baseline: Tally, candidate: Tally, difference: float) -> float:
    """Greatest log likelihood by brute force, refined by scipy."""
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)

    def loss(p: float) -> float:
        q = min(max(p + difference, 0.0), 1.0)
        return -(bounded.log_likelihood(baseline, p) + bounded.log_likelihood(candidate, q))

    grid = np.linspace(low, high, 2001)
    best = int(np.argmin([loss(p) for p in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, 2000)]
    refined = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-14})
    return -min(refined.fun, loss(grid[best]))


@settings(deadline=None)
@given(arms, arms, st.floats(-0.99, 0.99))
def test_the_likeliest_pair_is_the_grids(baseline: Tally, candidate: Tally, difference: float) -> None:
    ours = greatest_log_likelihood(baseline, candidate, difference)
    theirs = on_grid(baseline, candidate, difference)
    assert ours >= theirs - 1e-6
    assert ours <= theirs + 1e-3 * (1 + abs(theirs))


def log_e_of_confseq(p: float, successes: float, n: float, tuned: float) -> float:
    """The evidence against one proportion, with our Beta functions and the prior that confseq puts around it."""
    variance = p * (1 - p)
    level = 2 * math.log(1 / 0.05)
    r = max(tuned * variance / (level + math.log(1 + level)) - variance, 1e-3 * variance)
    a, b = r / (1 - p), r / p
    mixed = bounded._log_beta(a + successes, b + n - successes) - bounded._log_beta(a, b)
    return mixed - bounded.log_likelihood(Tally(int(n), successes), p)


def test_the_mixture_of_one_arm_is_the_published_one() -> None:
    """Golden: targets in the tests of confseq (Howard, Ramdas, McAuliffe and Sekhon), from its authors' R version."""
    assert log_e_of_confseq(0.2, 625 * 0.2 + 10, 625, 625) == pytest.approx(-0.6941012, abs=1e-5)
    for successes, n, tuned, low, high in ((700, 1000, 100, 0.651629, 0.745949), (15, 50, 50, 0.129556, 0.511896)):
        for end in (low, high):
            assert log_e_of_confseq(end, successes, n, tuned) == pytest.approx(math.log(20), abs=1e-3)


def test_the_mixture_is_exact() -> None:
    """Krichevsky and Trofimov's sequential probabilities multiply to the mixture: (k + 1/2) / (n + 1) at each step."""

    def sequential(outcomes: str) -> Fraction:
        seen, ones, product = 0, 0, Fraction(1)
        for outcome in outcomes:
            one = (ones + Fraction(1, 2)) / (seen + 1)
            product *= one if outcome == "1" else 1 - one
            seen, ones = seen + 1, ones + int(outcome)
        return product

    old, new = "0010010001", "01101"
    expected = (sequential(old + new) + sequential(old) * sequential(new)) / 2
    found = log_mixture(Tally(10, 3), Tally(5, 3))
    assert found == pytest.approx(math.log(expected), abs=1e-12)


def test_the_mixture_is_scipys_beta_function() -> None:
    found = log_mixture(Tally(1000, 12.25), Tally(300, 4.5))
    half = bounded.PRIOR

    def one(n: float, total: float) -> float:
        return betaln(half + total, half + n - total) - betaln(half, half)

    bets = [one(1300, 16.75), one(1000, 12.25) + one(300, 4.5)]
    assert found == pytest.approx(np.logaddexp.reduce(bets) - math.log(2), abs=1e-9)


@settings(deadline=None)
@given(arms, arms, st.floats(0.001, 0.2))
def test_the_sequence_ends_where_the_evidence_reaches_its_threshold(
    baseline: Tally, candidate: Tally, alpha: float
) -> None:
    found = compare(baseline, candidate, margin=0.0, alpha=alpha)
    assert found.low is not None and found.high is not None and found.estimate is not None
    assert -1 <= found.low <= found.estimate + 1e-9 and found.estimate - 1e-9 <= found.high <= 1
    threshold = math.log(1 / alpha)
    mixed = log_mixture(baseline, candidate)
    for end, outward in ((found.high, 1e-6), (found.low, -1e-6)):
        if abs(end) < 1 - 1e-5:
            inside = mixed - greatest_log_likelihood(baseline, candidate, end - outward * (1 + abs(end)))
            outside = mixed - greatest_log_likelihood(baseline, candidate, end + outward * (1 + abs(end)))
            assert inside <= threshold + 1e-6 <= outside + 2e-6


@settings(deadline=None)
@given(arms, arms, st.floats(-0.5, 0.5), st.floats(0.001, 0.2))
def test_passing_is_the_sequence_below_the_margin(
    baseline: Tally, candidate: Tally, margin: float, alpha: float
) -> None:
    found = compare(baseline, candidate, margin=margin, harm=margin, alpha=alpha)
    assert found.high is not None and found.low is not None
    threshold = math.log(1 / alpha)
    if abs(found.high - margin) > 1e-6:
        assert (found.log_e_pass >= threshold) == (found.high < margin)
    if abs(found.low - margin) > 1e-6:
        assert (found.log_e_harm >= threshold) == (found.low > margin)
    assert min(found.log_e_pass, found.log_e_harm) <= 1e-9


@settings(deadline=None)
@given(arms, arms, st.floats(-0.3, 0.3), st.floats(0, 0.3))
def test_a_wider_margin_is_easier_to_hold(baseline: Tally, candidate: Tally, margin: float, more: float) -> None:
    tight = compare(baseline, candidate, margin=margin, harm=margin, alpha=0.05)
    loose = compare(baseline, candidate, margin=margin + more, harm=margin + more, alpha=0.05)
    assert loose.log_e_pass >= tight.log_e_pass - 1e-6
    assert loose.log_e_harm <= tight.log_e_harm + 1e-6


@settings(deadline=None)
@given(arms, arms, st.floats(0, 0.3))
def test_arms_and_directions_mirror_each_other(baseline: Tally, candidate: Tally, margin: float) -> None:
    straight = compare(baseline, candidate, margin=margin, alpha=0.05)
    turned = compare(
        Tally(baseline.n, baseline.rest),
        Tally(candidate.n, candidate.rest),
        margin=margin,
        alpha=0.05,
        lower_is_better=False,
    )
    swapped = compare(candidate, baseline, margin=-margin, harm=-margin, alpha=0.05)
    assert straight.low is not None and straight.high is not None
    assert turned.low == pytest.approx(-straight.high, abs=1e-7)
    assert turned.high == pytest.approx(-straight.low, abs=1e-7)
    assert turned.log_e_pass == pytest.approx(straight.log_e_pass, abs=1e-6)
    assert swapped.low == pytest.approx(-straight.high, abs=1e-7)
    assert swapped.log_e_harm == pytest.approx(straight.log_e_pass, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=30), st.integers(0, 30))
def test_tallies_add_up_in_any_order(outcomes: list[float], cut: int) -> None:
    whole = Tally()
    for outcome in outcomes:
        whole = whole.add(outcome)
    shuffled = sorted(outcomes)
    parts = Tally(), Tally()
    for index, outcome in enumerate(shuffled):
        side = index < cut
        parts = (parts[0].add(outcome), parts[1]) if side else (parts[0], parts[1].add(outcome))
    merged = parts[0] + parts[1]
    assert (merged.n, merged.total) == (whole.n, pytest.approx(whole.total))


def test_one_arm_alone_proves_nothing() -> None:
    found = compare(Tally(), Tally(10_000, 5000.0), margin=0.01, alpha=0.05)
    assert found.estimate is None
    assert max(found.log_e_harm, found.log_e_pass) <= 0
    assert found.low is not None and found.high is not None and found.low < -0.4 and found.high > 0.4


def test_rare_errors_and_many_users_keep_their_digits() -> None:
    found = compare(Tally(10**8, 1e5), Tally(10**6, 1e3), margin=0.001, alpha=0.01)
    assert found.low is not None and found.high is not None
    assert found.low < 0 < found.high < 3e-4
    assert found.log_e_pass > 100 and found.log_e_harm < 0


def test_superiority_asks_for_less_than_the_baseline() -> None:
    better = compare(Tally(20_000, 2000.0), Tally(20_000, 1000.0), margin=-0.01, alpha=0.05)
    alike = compare(Tally(20_000, 2000.0), Tally(20_000, 2000.0), margin=-0.01, alpha=0.05)
    assert better.p_pass < 0.001
    assert alike.p_pass == alike.p_harm == 1.0  # not better, but no harm either


def test_outcomes_beyond_0_and_1_are_refused() -> None:
    for outcome in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="not within 0 and 1"):
            Tally().add(outcome)
