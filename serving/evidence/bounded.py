"""Rates and other outcomes between 0 and 1: exact sequential tests for the difference of two means.

For a mean p of outcomes x in [0, 1], (q/p)^x ((1-q)/(1-p))^(1-x) has an expectation of at most 1 for every q, since
it is convex in x and is 1 at the mixture of x = 0 and x = 1 with mean p. Products over independent units, mixed over
q by a fixed prior, are therefore e-processes (Robbins 1970, "Statistical methods related to the law of the iterated
logarithm"; for bounded outcomes Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
betting"). Nothing is asymptotic: any number of units, any allocation, errors as rare as they like.

The evidence against a difference d is the prior's likelihood of all outcomes over the greatest likelihood that any
pair (p, p + d) gives them; the divisor is concave along d, so that what remains possible is an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.evidence.comparison import Comparison, harm_margin

PRIOR = 0.5
"""Both parameters of the Beta prior: Jeffreys's, for which the price of not knowing p is about log(n) / 2."""


@dataclass(frozen=True)
class Tally:
    """Outcomes in [0, 1] of one arm: how many units, and the sum of their outcomes."""

    n: int = 0
    total: float = 0.0

    def add(self, outcome: float) -> Tally:
        """With one more unit.

        Raises:
            ValueError: the outcome is not within 0 and 1.
        """
        if not 0 <= outcome <= 1:
            raise ValueError(f"outcome {outcome!r} is not within 0 and 1")
        return Tally(self.n + 1, self.total + outcome)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.n + other.n, self.total + other.total)

    @property
    def rest(self) -> float:
        """What the outcomes lack to 1, summed; never below 0."""
        return max(self.n - self.total, 0.0)

    @property
    def mean(self) -> float:
        """Between 0 and 1.

        Raises:
            ZeroDivisionError: no unit.
        """
        return min(self.total / self.n, 1.0)


def compare(
    baseline: Tally,
    candidate: Tally,
    *,
    margin: float,
    alpha: float,
    lower_is_better: bool = True,
    harm: float | None = None,
) -> Comparison:
    """The difference of means, candidate - baseline.

    Args:
        baseline: outcomes of the step's baseline units.
        candidate: of its candidate units.
        margin: how much worse the candidate may be; below 0, by how much it must be better.
        alpha: 1 - coverage of the confidence sequence.
        lower_is_better: false where more is better, as for a rate of success.
        harm: how much worse is harm; by default the margin, or 0 where the margin is below it.
    """
    arms = (baseline, candidate) if lower_is_better else (_mirrored(baseline), _mirrored(candidate))
    mixed = log_mixture(*arms)
    low, high = _interval(*arms, mixed - math.log(1 / alpha))
    estimate = candidate.mean - baseline.mean if baseline.n and candidate.n else None
    return Comparison(
        estimate=estimate,
        low=low if lower_is_better else -high,
        high=high if lower_is_better else -low,
        log_e_harm=_against_at_most(*arms, harm_margin(margin, harm), mixed),
        log_e_pass=_against_at_least(*arms, margin, mixed),
        baseline_units=baseline.n,
        candidate_units=candidate.n,
    )


def _mirrored(arm: Tally) -> Tally:
    return Tally(arm.n, arm.rest)


def log_mixture(baseline: Tally, candidate: Tally) -> float:
    """Log of the prior's likelihood of all outcomes.

    Half of the prior holds both arms alike, half each for itself: likeness is what most rollouts find, and betting on
    it saves the price of the second mean.
    """
    apart = _log_likelihood_mixed(baseline) + _log_likelihood_mixed(candidate)
    return _log_mean([_log_likelihood_mixed(baseline + candidate), apart])


def _log_likelihood_mixed(arm: Tally) -> float:
    """Log of the mean of q^total (1-q)^rest over the Beta prior."""
    return _log_beta(PRIOR + arm.total, PRIOR + arm.rest) - _log_beta(PRIOR, PRIOR)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_mean(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(logs))


def log_likelihood(arm: Tally, p: float) -> float:
    """Log of p^total (1-p)^rest."""
    return _term(arm.total, p) + _term(arm.rest, 1 - p)


def _term(weight: float, p: float) -> float:
    if weight <= 0:
        return 0.0
    return weight * math.log(p) if p > 0 else -math.inf


def likeliest(baseline: Tally, candidate: Tally, difference: float) -> float:
    """The baseline's mean p that makes the outcomes likeliest while the candidate's is p + difference.

    The log likelihood is concave in p: Newton's steps on its slope, halving where they leave the bracket. (Farrington
    and Manning 1990 solve the same equation as a cubic, which loses its digits where events are rare.)
    """
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    if low >= high:
        return low
    parts = (
        (baseline.total, 0.0, 1.0),
        (candidate.total, difference, 1.0),
        (baseline.rest, 1.0, -1.0),
        (candidate.rest, 1.0 - difference, -1.0),
    )
    used = [part for part in parts if part[0] > 0]

    def slope(p: float) -> tuple[float, float]:
        first = second = 0.0
        for weight, offset, sign in used:
            gap = offset + sign * p
            if gap < 1e-150:  # its square would be 0
                return sign * math.inf, -math.inf
            first += sign * weight / gap
            second -= weight / (gap * gap)
        return first, second

    if slope(low)[0] <= 0:
        return low
    if slope(high)[0] >= 0:
        return high
    p = (low + high) / 2
    if baseline.n:
        p = min(max(baseline.mean, low + (high - low) * 1e-3), high - (high - low) * 1e-3)
    for _ in range(200):
        first, second = slope(p)
        if first > 0:
            low = p
        else:
            high = p
        step = p - first / second if math.isfinite(second) else low
        after = step if low < step < high else (low + high) / 2
        if abs(after - p) <= 1e-15 * (1e-3 + p) or not low < after < high:
            return after
        p = after
    return p


def greatest_log_likelihood(baseline: Tally, candidate: Tally, difference: float) -> float:
    """Log likelihood of the likeliest pair of means (p, p + difference)."""
    p = likeliest(baseline, candidate, difference)
    return log_likelihood(baseline, p) + log_likelihood(candidate, min(max(p + difference, 0.0), 1.0))


def _free(baseline: Tally, candidate: Tally) -> float:
    """Log likelihood of the arms' own means."""
    return sum(log_likelihood(arm, arm.mean) for arm in (baseline, candidate) if arm.n)


def _against_at_most(baseline: Tally, candidate: Tally, difference: float, mixed: float) -> float:
    """Log evidence against every difference up to this one."""
    if difference >= 1:
        return min(mixed - _free(baseline, candidate), 0.0)
    if difference < -1:
        return 0.0
    if not (baseline.n and candidate.n) or candidate.mean - baseline.mean <= difference:
        return mixed - _free(baseline, candidate)
    return mixed - greatest_log_likelihood(baseline, candidate, difference)


def _against_at_least(baseline: Tally, candidate: Tally, difference: float, mixed: float) -> float:
    """Log evidence against every difference from this one on."""
    return _against_at_most(candidate, baseline, -difference, mixed)


def _interval(baseline: Tally, candidate: Tally, level: float) -> tuple[float, float]:
    """Least and greatest difference whose greatest log likelihood is above the level."""
    centre = (candidate.mean if candidate.n else 0.5) - (baseline.mean if baseline.n else 0.5)
    return -_reach(candidate, baseline, -centre, level), _reach(baseline, candidate, centre, level)


def _reach(baseline: Tally, candidate: Tally, centre: float, level: float) -> float:
    """The difference above ``centre`` at which the greatest log likelihood falls to the level; 1 where it does not.

    The root of twice the fall is nearly a straight line in the difference, so that false position with Illinois's
    damping needs a handful of steps. What is given back is the outer end of the last bracket.
    """
    top = _free(baseline, candidate)
    goal = math.sqrt(2 * (top - level))

    def excess(difference: float) -> float:
        return math.sqrt(max(2 * (top - greatest_log_likelihood(baseline, candidate, difference)), 0.0)) - goal

    inner, outer = centre, 1.0
    f_inner, f_outer = -goal, excess(1.0)
    if f_outer <= 0:
        return 1.0
    tolerance = 1e-9
    side = 0
    for _ in range(200):
        if outer - inner <= tolerance * max(1e-3, abs(outer - centre)):
            break
        middle = (inner + outer) / 2
        if math.isfinite(f_outer):
            middle = inner - f_inner * (outer - inner) / (f_outer - f_inner)
            if not inner < middle < outer:
                middle = (inner + outer) / 2
        f_middle = excess(middle)
        if abs(f_middle) <= 1e-9 * goal:
            return middle
        if f_middle > 0:
            outer, f_outer = middle, f_middle
            f_inner *= 0.5 if side > 0 else 1.0
            side = 1
        else:
            inner, f_inner = middle, f_middle
            f_outer *= 0.5 if side < 0 else 1.0
            side = -1
    return outer
