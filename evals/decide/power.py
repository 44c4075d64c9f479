"""What a comparison could have seen: the minimum detectable difference, and how many documents would decide.

The formulas are those of a two-sided test of one size; with several tests at once they are asked for the strictest
size that Holm's method uses, so that the answer holds whatever the other tests say.
"""

from __future__ import annotations

import math
from statistics import NormalDist

POWER = 0.8
_NORMAL = NormalDist()


def documents_needed(difference: float, changed_share: float, alpha: float, power: float = POWER) -> int | None:
    """Documents at which McNemar's test finds a true ``difference`` with probability ``power``.

    Miettinen (1968), Connor (1987): n = (z_a sqrt(s) + z_b sqrt(s - d²))² / d², s the share of documents on which the
    models differ. None where the difference is 0: no number of documents shows what is not there.
    """
    size = abs(difference)
    if size == 0:
        return None
    share = max(changed_share, size)
    z_alpha, z_power = _quantiles(alpha, power)
    root = z_alpha * math.sqrt(share) + z_power * math.sqrt(max(share - size**2, 0.0))
    return math.ceil((root / size) ** 2)


def detectable_difference(documents: int, changed_share: float, alpha: float, power: float = POWER) -> float | None:
    """The smallest difference that McNemar's test on so many documents finds with probability ``power``.

    None where no document changed: the share that could change is then unknown.
    """
    if changed_share <= 0:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        needed = documents_needed(middle, changed_share, alpha, power)
        low, high = (middle, high) if needed is None or needed > documents else (low, middle)
    return high


def documents_needed_mean(difference: float, spread: float, alpha: float, power: float = POWER) -> int | None:
    """The same for a mean of paired differences whose standard deviation is ``spread``: n = ((z_a + z_b) s / d)²."""
    if difference == 0:
        return None
    return max(2, math.ceil((sum(_quantiles(alpha, power)) * spread / difference) ** 2))


def detectable_mean(standard_error: float, alpha: float, power: float = POWER) -> float:
    """The smallest mean difference that is found with probability ``power``: (z_a + z_b) standard errors."""
    return sum(_quantiles(alpha, power)) * standard_error


def _quantiles(alpha: float, power: float) -> tuple[float, float]:
    return _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)
