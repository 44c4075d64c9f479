"""Right against wrong: golden values of published tables, scipy and statsmodels as oracles, exact error rates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.decide.holm import holm
from evals.decide.paired import mcnemar_exact, tango_interval, tango_score
from evals.decide.power import (
    detectable_difference,
    detectable_mean,
    documents_needed,
    documents_needed_mean,
)

STATSMODELS_MCNEMAR = {
    (0, 0): 1.0,
    (1, 0): 1.0,
    (5, 0): 0.0625,
    (6, 0): 0.03125,
    (3, 9): 0.14599609375,
    (14, 31): 0.016094360031274842,
    (120, 95): 0.10145232764870649,
    (700, 760): 0.12253442205251179,
    (1500, 1320): 0.0007467902209675882,
}
"""statsmodels 0.15.0: mcnemar([[10, lost], [gained, 10]], exact=True).pvalue"""


@pytest.mark.parametrize(("changed", "expected"), STATSMODELS_MCNEMAR.items())
def test_mcnemar_is_that_of_statsmodels(changed: tuple[int, int], expected: float) -> None:
    assert mcnemar_exact(*changed) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_sign_test_of_scipy(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(gained, lost) == mcnemar_exact(lost, gained)


@pytest.mark.parametrize("changed", [1, 5, 6, 12, 33, 100])
def test_mcnemar_errs_at_most_as_often_as_it_says(changed: int) -> None:
    """Its type I error, summed over every outcome of equal models, not sampled."""
    for alpha in (0.01, 0.05, 0.2):
        outcomes = range(changed + 1)
        error = math.fsum(
            math.comb(changed, k) / 2**changed for k in outcomes if mcnemar_exact(k, changed - k) <= alpha
        )
        assert error <= alpha


@pytest.mark.parametrize(
    ("gained", "lost", "documents", "expected"),
    [
        # Fagerland, Lydersen and Laake (2014), table 5: airway hyper-responsiveness before and after a transplant
        (1, 7, 21, (-0.517, -0.026)),
        # Tango (1998), section 5: soft contact lenses, 44 patients of whom one differs
        (1, 0, 44, (-0.059, 0.118)),
    ],
)
def test_tangos_interval_is_the_published_one(
    gained: int, lost: int, documents: int, expected: tuple[float, float]
) -> None:
    assert tango_interval(gained, lost, documents) == pytest.approx(expected, abs=5e-4)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_tangos_interval_holds_what_the_score_test_accepts(gained: int, lost: int, same: int) -> None:
    documents = gained + lost + same
    if documents == 0:
        return
    low, high = tango_interval(gained, lost, documents)
    assert -1 <= low <= (gained - lost) / documents <= high <= 1
    critical = stats.norm.ppf(0.975)
    for inside in (low + (high - low) * share for share in (0.05, 0.5, 0.95)):
        assert abs(tango_score(gained, lost, documents, inside)) <= critical + 1e-6
    for outside in (low - 0.01, high + 0.01):
        if -1 < outside < 1:
            assert abs(tango_score(gained, lost, documents, outside)) > critical - 1e-6
    assert tango_interval(lost, gained, documents) == pytest.approx((-high, -low), abs=1e-9)


def test_the_score_is_at_its_likelihoods_maximum() -> None:
    """Tango's closed form for the nuisance parameter, against a search."""
    from scipy.optimize import minimize_scalar

    gained, lost, documents, difference = 7, 16, 80, 0.05

    def loss(q: float) -> float:
        p = q + difference
        return -(gained * math.log(p) + lost * math.log(q) + (documents - gained - lost) * math.log(1 - p - q))

    q = minimize_scalar(loss, bounds=(1e-9, (1 - difference) / 2 - 1e-9), method="bounded", options={"xatol": 1e-12}).x
    variance = documents * (2 * q + difference - difference**2)
    expected = (gained - lost - documents * difference) / math.sqrt(variance)
    assert tango_score(gained, lost, documents, difference) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("documents", "p_gain", "p_loss"), [(40, 0.1, 0.1), (60, 0.2, 0.05), (100, 0.05, 0.05)])
def test_tangos_interval_covers_as_often_as_it_says(documents: int, p_gain: float, p_loss: float) -> None:
    """Coverage summed over every outcome: on average at its level, as the paper finds, and never far below it."""
    true = p_gain - p_loss
    covered = []
    for gained in range(documents + 1):
        for lost in range(documents + 1 - gained):
            chance = stats.multinomial.pmf(
                [gained, lost, documents - gained - lost], documents, [p_gain, p_loss, 1 - p_gain - p_loss]
            )
            if chance > 1e-7 and abs(tango_score(gained, lost, documents, true)) <= stats.norm.ppf(0.975):
                covered.append(chance)
    assert 0.94 <= math.fsum(covered) <= 0.97


def test_holm_is_that_of_statsmodels() -> None:
    """statsmodels 0.15.0: multipletests(p, method="holm")[1]"""
    p = [0.0012, 0.3, 0.04, 0.04, 0.011, 0.74, 0.0004]
    assert holm(p) == pytest.approx([0.0072, 0.6, 0.16, 0.16, 0.055, 0.74, 0.0028])
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    for raw, adjusted in zip(p, holm(p), strict=True):
        assert raw <= adjusted <= min(1.0, raw * len(p)) + 1e-12


@pytest.mark.parametrize(("documents", "points"), [(1172, 2.6), (2376, 1.8), (817, 3.1), (14042, 0.75)])
def test_what_the_benchmarks_can_tell_with_a_tenth_of_the_answers_changed(documents: int, points: float) -> None:
    found = detectable_difference(documents, 0.1, 0.05)
    assert found is not None
    assert 100 * found == pytest.approx(points, abs=0.05)


@pytest.mark.parametrize("difference", [0.01, 0.05, -0.08])
def test_so_many_documents_do_decide(difference: float) -> None:
    """The power of the exact test at the size it is planned for, summed over every outcome."""
    share = 0.2
    documents = documents_needed(difference, share, 0.05)
    assert documents is not None
    found = detectable_difference(documents, share, 0.05)
    assert found == pytest.approx(abs(difference), rel=0.01)
    p_gain = (share + difference) / 2 / share
    changed = range(int(stats.binom.ppf(1e-6, documents, share)), int(stats.binom.ppf(1 - 1e-6, documents, share)))
    power = 0.0
    for count in changed[:: max(1, len(changed) // 60)]:
        weight = stats.binom.pmf(count, documents, share) * max(1, len(changed) // 60)
        reject = [k for k in range(count + 1) if mcnemar_exact(k, count - k) <= 0.05] if count < 300 else None
        if reject is None:  # far from few: the normal approximation of the same test
            edge = stats.binom.ppf(0.025, count, 0.5)
            power += weight * (stats.binom.cdf(edge - 1, count, p_gain) + stats.binom.sf(count - edge, count, p_gain))
        else:
            power += weight * stats.binom.pmf(reject, count, p_gain).sum()
    assert power == pytest.approx(0.8, abs=0.04)


def test_sizes_for_means_are_those_of_statsmodels() -> None:
    """statsmodels 0.15.0: NormalIndPower().solve_power(effect, alpha=0.01, power=0.8, ratio=0)"""
    assert documents_needed_mean(0.1, 1.0, 0.01) == math.ceil(1167.8968949034636)
    assert documents_needed_mean(-0.03, 1.0, 0.01) == math.ceil(12976.631276189804)
    assert detectable_mean(1 / math.sqrt(1167.8968949034636), 0.01) == pytest.approx(0.1)


def test_nothing_decides_a_difference_of_nothing() -> None:
    assert documents_needed(0.0, 0.3, 0.05) is None
    assert documents_needed_mean(0.0, 0.3, 0.05) is None
    assert detectable_difference(100, 0.0, 0.05) is None
