"""Means of unbounded values (logs of seconds, money): sequential t-tests, asymptotic for values that are not normal.

The evidence against a difference is a Bayes factor of the t statistic with a normal prior on the standardised
difference (Gönen, Johnson, Lu and Westfall 2005, "The Bayesian two-sample t test"). For normal values with equal
variances it is an exact e-process under any stopping (Hendriksen, de Heide and Grünwald 2021, "Optional stopping with
Bayes factors"). For any others, with Welch's variance and degrees of freedom in it, it tends with growing n to the
asymptotic confidence sequence of Robbins's normal mixture (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024,
"Time-uniform central limit theory and asymptotic confidence sequences"), as the central limit theorem makes means
normal. Therefore nothing is said before each arm has enough units: BURN_IN, and more where values are skewed (Kohavi,
Deng, Longbotham and Xu 2014, "Seven rules of thumb for web site experimenters", ask for a multiple of the squared
skewness too).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.evidence.comparison import Comparison, harm_margin, log_factor

BURN_IN = 50
"""Units that each arm needs before its mean counts as normal."""

SKEWED_UNITS = 25.0
"""More of them for each unit of squared skewness: where few users have a value other than 0, about so many of those."""

PRIOR_SPREAD = 0.2
"""Standard deviation of the prior on the difference, in standard deviations of the values: where the test is best."""


@dataclass(frozen=True)
class Moments:
    """Values of one arm: how many units, their mean, and the sums of squared and of cubed deviations from it."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0

    def add(self, value: float) -> Moments:
        """With one more unit (Welford 1962).

        Raises:
            ValueError: the value is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f"value {value!r} is not a finite number")
        return self + Moments(1, value)

    def __add__(self, other: Moments) -> Moments:
        """Both together (Chan, Golub and LeVeque 1979; Pébay 2008 for the cubes)."""
        n = self.n + other.n
        if not n:
            return self
        gap = other.mean - self.mean
        both = self.n * other.n / n
        return Moments(
            n,
            self.mean + gap * other.n / n,
            self.m2 + other.m2 + gap * gap * both,
            self.m3
            + other.m3
            + gap**3 * both * (self.n - other.n) / n
            + 3 * gap * (self.n * other.m2 - other.n * self.m2) / n,
        )


def compare(
    baseline: Moments,
    candidate: Moments,
    *,
    margin: float,
    alpha: float,
    lower_is_better: bool = True,
    harm: float | None = None,
    relative: bool = False,
) -> Comparison:
    """The difference of means, candidate - baseline; of natural logs where ``relative``.

    Args:
        baseline: values of the step's baseline units; natural logs of positive values where ``relative``.
        candidate: of its candidate units, likewise.
        margin: how much worse the candidate may be (0.1 is 10 % where ``relative``); below 0, by how much it must be
            better.
        alpha: 1 - coverage of the confidence sequence.
        lower_is_better: false where more is better.
        harm: how much worse is harm; by default the margin, or 0 where the margin is below it.
        relative: compare geometric means by their ratio.
    """
    limits = (margin, harm_margin(margin, harm))
    if relative:
        limits = (log_factor(limits[0], lower_is_better), log_factor(limits[1], lower_is_better))
    n = (baseline.n, candidate.n)
    difference = candidate.mean - baseline.mean if min(n) else None
    precision = _precision(baseline, candidate)
    shown = math.expm1 if relative else float
    if difference is None or precision is None:
        return Comparison(None if difference is None else shown(difference), None, None, 0.0, 0.0, *n)
    worse = difference if lower_is_better else -difference
    passing, harming = (precision.log_evidence(worse - limit) for limit in limits)
    least = precision.log_evidence(0.0)
    half = precision.half_width(alpha)
    bounded = math.isfinite(half)
    return Comparison(
        estimate=shown(difference),
        low=shown(difference - half) if bounded else None,
        high=shown(difference + half) if bounded else None,
        log_e_harm=harming if worse > limits[1] else least,
        log_e_pass=passing if worse < limits[0] else least,
        baseline_units=n[0],
        candidate_units=n[1],
    )


def burn_in(baseline: Moments, candidate: Moments) -> float:
    """Units that each arm needs, by the skewness of both together (each around its own mean)."""
    squares = baseline.m2 + candidate.m2
    if squares <= 0:
        return BURN_IN
    cubes = baseline.m3 + candidate.m3
    return BURN_IN + SKEWED_UNITS * (baseline.n + candidate.n) * cubes * cubes / squares**3


@dataclass(frozen=True)
class _Precision:
    """How well a difference of two means is known.

    Attributes:
        variance: of the estimated difference (Welch 1938).
        freedom: its degrees of freedom (Welch and Satterthwaite).
        gain: the prior's variance of the difference over the estimate's.
    """

    variance: float
    freedom: float
    gain: float

    def log_evidence(self, gap: float) -> float:
        """Log evidence against a difference that is ``gap`` away from the estimate."""
        if math.isinf(gap):
            return math.inf
        if self.variance == 0:
            return math.inf if gap else -0.5 * math.log1p(self.gain)
        ratio = gap * gap / self.variance / self.freedom
        fit = math.log1p(ratio) - math.log1p(ratio / (1 + self.gain))
        return (self.freedom + 1) / 2 * fit - 0.5 * math.log1p(self.gain)

    def half_width(self, alpha: float) -> float:
        """How far from the estimate the log evidence reaches ``log(1 / alpha)``; infinite where it never does."""
        growth = math.exp((2 * math.log(1 / alpha) + math.log1p(self.gain)) / (self.freedom + 1))
        if growth >= 1 + self.gain:
            return math.inf
        return math.sqrt(self.variance * self.freedom * (growth - 1) / (1 - growth / (1 + self.gain)))


def _precision(baseline: Moments, candidate: Moments) -> _Precision | None:
    """None before the burn-in is over."""
    if min(baseline.n, candidate.n) < burn_in(baseline, candidate):
        return None
    parts = [arm.m2 / (arm.n - 1) / arm.n for arm in (baseline, candidate)]
    variance = sum(parts)
    squares = parts[0] ** 2 / (baseline.n - 1) + parts[1] ** 2 / (candidate.n - 1)
    freedom = variance**2 / squares if squares else float(baseline.n + candidate.n - 2)
    gain = PRIOR_SPREAD**2 / (1 / baseline.n + 1 / candidate.n)
    return _Precision(variance, freedom, gain)
