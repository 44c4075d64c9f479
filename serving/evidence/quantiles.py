"""Quantiles of seconds, such as the 95th percentile of latency: exact sequential tests for their ratio.

At the true quantile q the share of values up to q is known (0.95), whatever their distribution. For every q the
outcomes "value <= q" are thus tested against 0.95 by the Beta mixture of :mod:`serving.evidence.bounded`, and a ratio
r of two quantiles is refuted when every q is, as the baseline's with r q as the candidate's (confidence sequences for
quantiles: Howard and Ramdas 2022, "Sequential estimation of quantiles with applications to A/B testing and best-arm
identification"). Values are kept in fixed bins of one per cent, and only what no position within its bin could
explain counts as evidence, so that binning costs a per cent of width and no validity.

Of some values only a lower bound is known: their callers left. Whatever they would have been, the counts up to any q
lie between those with each value at its bound and those with it beyond all others; each end of the interval, and each
test, uses the one that speaks against it (bounds without assumptions: Manski 2003, "Partial Identification of
Probability Distributions"). So a variant that never answers cannot pass for a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import betainc, betaln

from serving.evidence.comparison import Comparison, harm_margin, log_factor

SHORTEST, LONGEST = 1e-4, 1e4
"""Seconds; what lies beyond counts as if it were there."""

STEP = math.log(1.01)
"""Width of a bin, as a natural log."""

BINS = math.ceil(math.log(LONGEST / SHORTEST) / STEP)

PRIOR_UNITS = 100.0
"""How firmly the prior expects the share near the quantile: as if so many units had been seen."""


def bin_of(seconds: float) -> int:
    """The bin that holds the value: above its lower edge, at most its upper one."""
    if seconds <= SHORTEST:
        return 0
    return min(max(math.ceil(math.log(seconds / SHORTEST) / STEP) - 1, 0), BINS - 1)


@dataclass(frozen=True)
class Sketch:
    """Values of one arm in bins: each unit's values share a weight of 1.

    Attributes:
        n: units.
        weights: bin -> weight, where it is not 0.
        at_least: likewise of values that are only known to lie in this bin or beyond it.
    """

    n: int = 0
    weights: Mapping[int, float] = field(default_factory=dict)
    at_least: Mapping[int, float] = field(default_factory=dict)

    def add(self, values: Iterable[float], at_least: Iterable[float] = ()) -> Sketch:
        """With one more unit and all its values and lower bounds, in seconds; without any it stays as it is."""
        bins, bounds = [bin_of(value) for value in values], [bin_of(value) for value in at_least]
        if not bins and not bounds:
            return self
        each = 1 / (len(bins) + len(bounds))
        return Sketch(
            self.n + 1,
            _together(self.weights, ((index, each) for index in bins)),
            _together(self.at_least, ((index, each) for index in bounds)),
        )

    def __add__(self, other: Sketch) -> Sketch:
        return Sketch(
            self.n + other.n,
            _together(self.weights, other.weights.items()),
            _together(self.at_least, other.at_least.items()),
        )

    def fastest(self) -> Sketch:
        """As if every value were at its bound."""
        return Sketch(self.n, _together(self.weights, self.at_least.items())) if self.at_least else self

    def slowest(self) -> Sketch:
        """As if every value of which only a bound is known lay beyond all others."""
        beyond = ((BINS - 1, weight) for weight in self.at_least.values())
        return Sketch(self.n, _together(self.weights, beyond)) if self.at_least else self

    def cumulated(self) -> np.ndarray:
        """Known weight up to each of the BINS + 1 edges; the first is 0, the last n where every value is known."""
        dense = np.zeros(BINS + 1)
        for index, weight in self.weights.items():
            dense[index + 1] = weight
        return np.minimum(np.cumsum(dense), self.n)

    def quantile(self, share: float) -> float | None:
        """Seconds that a share of the weight lies within: the middle of that bin; None where it is not known.

        Values of which only a bound is known count as longer than all others.
        """
        reached = self.cumulated()[1:] >= share * self.n * (1 - 1e-12)
        if not self.n or not reached.any():
            return None
        return SHORTEST * math.exp((int(np.argmax(reached)) + 0.5) * STEP)


def _together(weights: Mapping[int, float], more: Iterable[tuple[int, float]]) -> dict[int, float]:
    both = dict(weights)
    for index, weight in more:
        both[index] = both.get(index, 0.0) + weight
    return both


def compare(
    baseline: Sketch,
    candidate: Sketch,
    *,
    margin: float,
    alpha: float,
    lower_is_better: bool = True,
    harm: float | None = None,
    quantile: float = 0.95,
) -> Comparison:
    """The ratio of quantiles, candidate / baseline - 1.

    Args:
        baseline: values of the step's baseline units.
        candidate: of its candidate units.
        margin: how much worse the candidate may be, 0.1 for 10 %; below 0, by how much it must be better.
        alpha: 1 - coverage of the confidence sequence.
        lower_is_better: false where more is better.
        harm: how much worse is harm; by default the margin, or 0 where the margin is below it.
        quantile: which one.
    """
    least, harmful = (log_factor(limit, lower_is_better) / STEP for limit in (margin, harm_margin(margin, harm)))
    # (baseline, candidate) where the ratio is as great, and as small, as the lower bounds leave it
    greatest = log_evidence(baseline.fastest(), quantile), log_evidence(candidate.slowest(), quantile)
    smallest = greatest
    if baseline.at_least or candidate.at_least:
        smallest = log_evidence(baseline.slowest(), quantile), log_evidence(candidate.fastest(), quantile)
    high = _greatest_shift(*greatest, math.log(1 / alpha))
    low = _greatest_shift(*smallest[::-1], math.log(1 / alpha))
    old, new = baseline.quantile(quantile), candidate.quantile(quantile)
    harming, passing = (smallest[::-1], greatest) if lower_is_better else (greatest, smallest[::-1])
    return Comparison(
        estimate=new / old - 1 if old is not None and new is not None else None,
        low=None if low is None else math.expm1(-low * STEP),
        high=None if high is None else math.expm1(high * STEP),
        log_e_harm=_least_from(*harming, -harmful),
        log_e_pass=_least_from(*passing, least),
        baseline_units=baseline.n,
        candidate_units=candidate.n,
    )


def log_evidence(arm: Sketch, quantile: float) -> np.ndarray:
    """Log evidence of one arm against each bin as the place of its quantile.

    The quantile lies in a bin only if at most its share is up to the lower edge and at least its share up to the upper
    one. Each is one-sided and has half of the prior: shares above the quantile's, and below it.
    """
    up_to, place = np.unique(arm.cumulated(), return_inverse=True)
    above, below = _one_sided(up_to, arm.n, quantile)
    return np.logaddexp(above[place[:-1]], below[place[1:]]) - math.log(2)


def log_evidence_at(lower: np.ndarray, upper: np.ndarray, n: np.ndarray, quantile: float) -> np.ndarray:
    """The same for one bin of many arms, from each arm's weight up to the bin's edges and its units."""
    return np.logaddexp(_one_sided(lower, n, quantile)[0], _one_sided(upper, n, quantile)[1]) - math.log(2)


def _one_sided(up_to: np.ndarray, n: np.ndarray | int, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Log evidence that more than the quantile's share lies up to a point, and that less does."""
    beyond = np.maximum(n - up_to, 0.0)
    a, b = quantile * PRIOR_UNITS, (1 - quantile) * PRIOR_UNITS
    fixed = up_to * math.log(quantile) + beyond * math.log1p(-quantile)
    below = _log_beta_below(quantile, a + up_to, b + beyond) - _log_beta_below(quantile, a, b)
    above = _log_beta_below(1 - quantile, b + beyond, a + up_to) - _log_beta_below(1 - quantile, b, a)
    return above - fixed, below - fixed


def _log_beta_below(x: float, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """Log of the integral of t^(a-1) (1-t)^(b-1) from 0 to x.

    Where scipy's ratio underflows, a lower bound from its series (DLMF 8.17.8, whose terms are positive and for b >= 1
    at least those of 1 / (1 - x)), which only makes evidence weaker.
    """
    share = betainc(a, b, x)
    series = a * math.log(x) + (b - np.greater_equal(b, 1)) * math.log1p(-x) - np.log(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 1e-290, np.log(share) + betaln(a, b), series)


def _least_from(baseline: np.ndarray, candidate: np.ndarray, shift: float) -> float:
    """Least evidence against any pair of bins that could hold quantiles with log ratio >= shift (in bins)."""
    first = math.floor(min(max(shift, -BINS), BINS) - 1e-9)
    least_after = np.minimum.accumulate(candidate[::-1])[::-1]
    starts = np.arange(BINS) + first
    possible = starts < BINS
    if not possible.any():
        return math.inf
    return float(np.min(baseline[possible] + least_after[np.maximum(starts[possible], 0)]))


def _greatest_shift(baseline: np.ndarray, candidate: np.ndarray, threshold: float) -> float | None:
    """Greatest log ratio (in bins) that pairs of bins below the threshold allow; None where an edge of the range is."""
    least_after = np.minimum.accumulate(candidate[::-1])[::-1]
    last = np.searchsorted(least_after, threshold - baseline, side="left") - 1
    allowed = last >= 0
    if not allowed.any():
        return None
    if allowed[0] or (last[allowed] == BINS - 1).any():
        return None
    return float(np.max(last[allowed] - np.flatnonzero(allowed)) + 1)
