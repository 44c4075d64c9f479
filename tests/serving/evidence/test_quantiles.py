"""Quantiles: the one-sided mixtures against integrals, the search over bins against all pairs of bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from serving.evidence import quantiles
from serving.evidence.quantiles import BINS, LONGEST, SHORTEST, STEP, Sketch, bin_of, compare, log_evidence

seconds = st.floats(1e-5, 1e5)


def sample(n: int, factor: float = 1.0, seed: int = 0) -> Sketch:
    """Log-normal latencies of n users."""
    bins = [bin_of(value) for value in np.random.default_rng(seed).lognormal(-1, 0.7, n) * factor]
    index, counts = np.unique(bins, return_counts=True)
    return Sketch(n, dict(zip(index.tolist(), counts.astype(float).tolist(), strict=True)))


@given(seconds)
def test_a_bin_holds_its_values(value: float) -> None:
    place = bin_of(value)
    inside = min(max(value, SHORTEST), LONGEST)
    assert SHORTEST * math.exp(place * STEP) <= inside * (1 + 1e-12)
    assert inside <= SHORTEST * math.exp((place + 1) * STEP) * (1 + 1e-12)
    assert 0 <= place < BINS


def test_the_evidence_against_a_bin_is_the_integral_of_two_half_priors() -> None:
    arm = sample(200)
    found = log_evidence(arm, 0.9)
    prior_a, prior_b = 90.0, 10.0
    up_to = arm.cumulated()
    for place in (bin_of(arm.quantile(0.9)) + shift for shift in (-40, -8, 0, 5, 30)):

        def half(low: float, high: float, weight: float) -> float:
            def prior(q: float) -> float:
                return q ** (prior_a - 1) * (1 - q) ** (prior_b - 1)

            def ratio(q: float) -> float:
                return prior(q) * math.exp(weight * math.log(q / 0.9) + (200 - weight) * math.log((1 - q) / 0.1))

            return quad(ratio, low, high, epsabs=0, limit=200)[0] / quad(prior, low, high, epsabs=0)[0]

        expected = (half(0.9, 1, up_to[place]) + half(0, 0.9, up_to[place + 1])) / 2
        assert found[place] == pytest.approx(math.log(expected), abs=1e-6)


def pairs(baseline: Sketch, candidate: Sketch) -> tuple[np.ndarray, np.ndarray]:
    """Evidence against each pair of bins and their distance, the slow way."""
    old, new = log_evidence(baseline, 0.95), log_evidence(candidate, 0.95)
    distance = np.arange(BINS)[None, :] - np.arange(BINS)[:, None]
    return old[:, None] + new[None, :], distance


@pytest.mark.parametrize(("n_old", "n_new", "factor"), [(400, 300, 1.0), (3000, 300, 1.4), (2000, 2000, 0.8)])
def test_the_search_finds_what_all_pairs_show(n_old: int, n_new: int, factor: float) -> None:
    baseline, candidate = sample(n_old), sample(n_new, factor, seed=1)
    evidence, distance = pairs(baseline, candidate)
    for margin in (-0.1, 0.0, 0.1, 0.5):
        found = compare(baseline, candidate, margin=margin, harm=margin, alpha=0.05)
        limit = math.log1p(margin) / STEP
        # the ratio of two values within their bins is anything between one bin less and one bin more
        assert found.log_e_pass == pytest.approx(evidence[distance + 1 > limit - 1e-9].min())
        assert found.log_e_harm == pytest.approx(evidence[distance - 1 < limit + 1e-9].min())
    allowed = distance[evidence < math.log(20)]
    assert found.high == pytest.approx(math.expm1((allowed.max() + 1) * STEP))
    assert found.low == pytest.approx(math.expm1((allowed.min() - 1) * STEP))


def test_passing_and_harm_are_the_sequence_beyond_the_margin() -> None:
    for factor in np.linspace(0.7, 1.6, 19):
        found = compare(sample(2000), sample(1500, float(factor), seed=2), margin=0.2, alpha=0.05)
        assert found.low is not None and found.high is not None
        assert (found.log_e_pass >= math.log(20)) == (found.high <= 0.2)
        assert (found.log_e_harm >= math.log(20)) == (found.low >= 0.2)


def test_swapped_arms_and_directions_mirror_each_other() -> None:
    straight = compare(sample(2000), sample(1500, 1.2, seed=2), margin=0.2, harm=0.2, alpha=0.05)
    swapped = compare(
        sample(1500, 1.2, seed=2), sample(2000), margin=1 - 1 / 1.2, harm=1 - 1 / 1.2, alpha=0.05, lower_is_better=False
    )
    assert straight.low is not None and straight.high is not None and swapped.high is not None
    assert (1 + swapped.high) * (1 + straight.low) == pytest.approx(1)
    assert swapped.log_e_pass == pytest.approx(straight.log_e_pass, abs=1e-9)
    assert swapped.log_e_harm == pytest.approx(straight.log_e_harm, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.lists(seconds, min_size=1, max_size=4), max_size=12), st.integers(0, 12))
def test_sketches_add_up_in_any_order(users: list[list[float]], cut: int) -> None:
    whole = Sketch()
    for user in users:
        whole = whole.add(user)
    first, second = Sketch(), Sketch()
    for user in reversed(users[:cut]):
        first = first.add(reversed(user))
    for user in users[cut:]:
        second = second.add(user)
    merged = second + first
    assert merged.n == whole.n == len(users)
    assert merged.cumulated() == pytest.approx(whole.cumulated())
    assert sum(whole.weights.values()) == pytest.approx(len(users))


def test_each_user_weighs_the_same() -> None:
    arm = Sketch().add([1.0] * 99).add([10.0])
    assert arm.n == 2
    assert arm.quantile(0.5) == pytest.approx(1.0, rel=0.01)
    assert arm.quantile(0.51) == pytest.approx(10.0, rel=0.01)
    assert arm.add([]) is arm


def test_the_estimate_is_numpys_within_a_bin() -> None:
    numbers = np.random.default_rng(3).lognormal(-1, 0.7, 5000)
    arm = Sketch()
    for number in numbers:
        arm = arm.add([float(number)])
    for share in (0.5, 0.95, 0.99):
        assert arm.quantile(share) == pytest.approx(np.quantile(numbers, share, method="inverted_cdf"), rel=0.011)


def test_few_units_bound_nothing() -> None:
    for arms in ((Sketch(), Sketch()), (sample(30), sample(30)), (sample(1000), Sketch())):
        found = compare(*arms, margin=0.2, alpha=0.05)
        assert found.high is None
        assert max(found.log_e_harm, found.log_e_pass) < math.log(20)


def test_very_many_units_stay_finite() -> None:
    small = sample(1000)
    arms = [Sketch(small.n * scale, {k: v * scale for k, v in small.weights.items()}) for scale in (10**3, 10**6)]
    for arm in arms:
        found = compare(arm, arm, margin=0.1, alpha=0.05)
        assert found.low is not None and found.high is not None
        assert -0.05 < found.low < 0 < found.high < 0.05
        assert math.isfinite(found.log_e_harm) and found.log_e_pass > 100


def test_an_underflowing_tail_is_never_overstated() -> None:
    """Just above the underflow the series' lower bound is compared with scipy's own figure."""
    a, b = np.array([2000.0, 5000.0]), np.array([400.0, 900.0])
    exact = quantiles._log_beta_below(0.7, a, b)
    series = a * math.log(0.7) + (b - 1) * math.log1p(-0.7) - np.log(a)
    assert (series <= exact).all()
    assert (exact - series < 3).all()


BINNING = 0.1
"""Evidence that a bin's width may cost the truth and not the bounds."""
few_bins = st.integers(500, 700)
waits = st.lists(st.tuples(few_bins, st.booleans(), st.integers(0, 400)), min_size=1, max_size=40)


def at(place: int) -> float:
    """Seconds in the middle of a bin."""
    return SHORTEST * math.exp((place + 0.5) * STEP)


def arms_of(users: list[tuple[int, bool, int]]) -> tuple[Sketch, Sketch]:
    """(What was seen, what it would have been): bin, whether the caller left then, and bins more until the answer."""
    seen = truth = Sketch()
    for place, left, more in users:
        seen = seen.add((), [at(place)]) if left else seen.add([at(place)])
        truth = truth.add([at(place + more if left else place)])
    many = 25.0
    return tuple(
        Sketch(
            int(arm.n * many),
            {index: weight * many for index, weight in arm.weights.items()},
            {index: weight * many for index, weight in arm.at_least.items()},
        )
        for arm in (seen, truth)
    )


@settings(max_examples=100, deadline=None)
@given(waits, waits, st.booleans(), st.sampled_from([0.0, 0.1, 0.3]))
def test_whatever_the_answers_would_have_been_bounds_claim_no_more(old, new, lower, margin) -> None:
    (old_seen, old_truth), (new_seen, new_truth) = arms_of(old), arms_of(new)
    seen = compare(old_seen, new_seen, margin=margin, alpha=0.05, lower_is_better=lower)
    truth = compare(old_truth, new_truth, margin=margin, alpha=0.05, lower_is_better=lower)
    assert seen.log_e_harm <= max(truth.log_e_harm, 0.0) + BINNING
    assert seen.log_e_pass <= max(truth.log_e_pass, 0.0) + BINNING
    assert seen.low is None or (truth.low is not None and seen.low <= truth.low + 2 * STEP)
    assert seen.high is None or (truth.high is not None and seen.high >= truth.high - 2 * STEP)


def test_a_variant_that_hangs_until_callers_leave_is_not_fast() -> None:
    quick = Sketch().add([1.0])
    baseline = Sketch(1000, dict.fromkeys(quick.weights, 1000.0))
    at_once = bin_of(0.1)
    hangs = Sketch(1000, dict.fromkeys(quick.weights, 700.0), {at_once: 300.0})
    found = compare(baseline, hangs, margin=0.3, alpha=0.05)
    assert (found.estimate, found.high) == (None, None)
    assert found.log_e_pass <= 0
    as_if_answered = Sketch(1000, {**hangs.weights, at_once: 300.0})
    assert compare(baseline, as_if_answered, margin=0.3, alpha=0.05).log_e_pass > math.log(20)
    late = Sketch(1000, hangs.weights, {bin_of(5.0): 300.0})
    assert compare(baseline, late, margin=0.3, alpha=0.05).log_e_harm > math.log(20), "it took at least five seconds"


def test_a_few_who_leave_on_both_sides_are_no_obstacle() -> None:
    arm = sample(20_000)
    left = Sketch(arm.n + 100, arm.weights, {bin_of(0.05): 100.0})
    found = compare(left, left, margin=0.3, alpha=0.05)
    assert found.estimate == 0
    assert found.log_e_pass > math.log(20)
    assert found.log_e_harm <= 0
