"""The sample-ratio check against the published implementation's figures and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.evidence.ratio import log_evidence


def coefficient(counts: list[int]) -> float:
    """Log of the number of orders in which these counts can arrive."""
    return math.lgamma(sum(counts) + 1) - sum(math.lgamma(count + 1) for count in counts)


def test_the_published_example() -> None:
    """Golden: Lindon and Malek's own implementation (optimizely/ssrm, test_sequential_posteriors): log marginal
    likelihoods of three arms promised 0.4, 0.4, 0.2 under a Dirichlet(1, 1, 1) prior, after each batch of counts.

    There the prior is uniform, here it is around the shares; with promised thirds the two are the same prior.
    """
    batches = [[20, 17, 9], [18, 21, 8], [4, 6, 4], [18, 19, 11]]
    golden = [-7.028201432058012, -11.947847738358888, -15.471401950257842, -19.96484521090386]
    seen, orders = [0, 0, 0], 0.0
    for batch, expected in zip(batches, golden, strict=True):
        seen = [a + b for a, b in zip(seen, batch, strict=True)]
        orders += coefficient(batch)
        found = log_evidence(seen, [1, 1, 1], concentrations=[3.0])
        assert found - sum(seen) * math.log(3) + orders == pytest.approx(expected, abs=1e-9)


def test_single_units_of_the_published_example() -> None:
    """The same, unit by unit: 1/3, 1/4, 2/5 … for arms 0, 1, 0, 1, 2."""
    golden = [-1.0986122886681096, -2.4849066497880004, -3.401197381662155, -4.499809670330265, -6.4457198193855785]
    seen = [0, 0, 0]
    for arm, expected in zip([0, 1, 0, 1, 2], golden, strict=True):
        seen[arm] += 1
        found = log_evidence(seen, [1, 1, 1], concentrations=[3.0])
        assert found - sum(seen) * math.log(3) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), max_size=40), st.sampled_from([Fraction(1, 100), Fraction(1, 4), Fraction(1, 2)]))
def test_it_is_polyas_urn_over_the_promised_shares(arrivals: list[bool], share: Fraction) -> None:
    product, new = Fraction(1), 0
    for seen, candidate in enumerate(arrivals):
        chance = (20 * share + new) / (20 + seen)
        product *= chance / share if candidate else (1 - chance) / (1 - share)
        new += candidate
    counts = [len(arrivals) - new, new]
    found = log_evidence(counts, [float(1 - share), float(share)], concentrations=[20.0])
    assert found == pytest.approx(math.log(product), abs=1e-9)


def test_arms_may_come_in_any_order() -> None:
    assert log_evidence([12, 990], [1, 99]) == pytest.approx(log_evidence([990, 12], [0.99, 0.01]))


def test_a_mismatch_is_found_and_a_match_is_not() -> None:
    assert log_evidence([50_000, 50_100], [0.5, 0.5]) < 0
    assert log_evidence([50_000, 52_000], [0.5, 0.5]) > math.log(1000)
    assert log_evidence([60, 140], [0.5, 0.5]) > math.log(1000)  # gross ones early
    assert log_evidence([9_900, 200], [0.99, 0.01]) > math.log(1000)


def test_nobody_may_come_to_an_arm_without_a_share() -> None:
    assert log_evidence([0, 500], [0.0, 1.0]) == pytest.approx(0.0)
    assert log_evidence([1, 500], [0.0, 1.0]) == math.inf
    with pytest.raises(ValueError, match="do not describe one split"):
        log_evidence([1, 2, 3], [0.5, 0.5])
