"""How sure a score is: 95 % intervals, and what guessing would have scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927): holds its level at small n and near 0 and 1."""
    z = Z95 if level == 0.95 else NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    scale = 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def normal(score: float, stderr: float) -> tuple[float, float]:
    """score ± 1.96 standard errors, for a mean of values that are not just right or wrong."""
    return score - Z95 * stderr, score + Z95 * stderr


def interval(values: Sequence[float], score: float, stderr: float | None) -> tuple[float, float] | None:
    """The 95 % interval of a mean of per-question values; None where there is no standard error (one question)."""
    if all(value in (0, 1) for value in values):
        return wilson(score * len(values), len(values))
    if stderr is None or not math.isfinite(stderr):
        return None
    low, high = normal(score, stderr)
    if all(0 <= value <= 1 for value in values):
        return max(0.0, low), min(1.0, high)  # a mean of shares is one
    return low, high


def verdict(bounds: tuple[float, float] | None, chance: float | None) -> str:
    """A score against guessing, in words."""
    if bounds is None or chance is None:
        return ""
    if bounds[0] > chance:
        return "above chance"
    return "below chance" if bounds[1] < chance else "not told from chance"
