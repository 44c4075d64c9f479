"""Two models on the same questions, right or wrong: McNemar's exact test and Tango's interval of the difference.

Only documents on which the models differ tell them apart: ``gained`` (A wrong, B right), ``lost`` (A right, B wrong).
"""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()
_STEPS = 60
"""Halvings of an interval that is at most 2 wide: its ends are then exact to a double's last digits."""


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's test (McNemar 1947) in its exact form: a fair coin for each changed document.

    If the models are equally good, a document that tells them apart favours either with probability 1/2.
    """
    changed = gained + lost
    if changed == 0:
        return 1.0
    ways = tail = 1  # whole numbers, so exact however many documents changed
    for count in range(min(gained, lost)):
        ways = ways * (changed - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**changed)


def tango_interval(gained: int, lost: int, documents: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of B's share right minus A's (Tango 1998), two-sided at ``level``.

    All differences that a score test, with the likelihood maximised under each, does not reject. It holds its level
    where a difference is near 0, where few documents changed, and for small sets; Wald's does not.
    """
    critical = _NORMAL.inv_cdf((1 + level) / 2)
    observed = (gained - lost) / documents

    def bound(outer: float, sign: int) -> float:
        low, high = observed, outer  # low is inside the interval, high outside or at the end of what is possible
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if sign * tango_score(gained, lost, documents, middle) > critical:
                high = middle
            else:
                low = middle
        return (low + high) / 2

    return bound(-1.0, 1), bound(1.0, -1)


def tango_score(gained: int, lost: int, documents: int, difference: float) -> float:
    """The score statistic of a hypothetical difference: standard normal if it is the true one, positive if too small.

    Tango (1998), equation 5: (gained - lost - n d) / sqrt(n (2 q + d (1 - d))), q the likeliest probability of a lost
    document given the difference d.
    """
    if abs(difference) >= 1:
        return 0.0 if (gained - lost) / documents == difference else -math.copysign(math.inf, difference)
    # q solves 2n q² + b q + c = 0
    b = -gained - lost + (2 * documents - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    root = math.sqrt(max(b * b - 8 * documents * c, 0.0))
    q = max((root - b) / (4 * documents), 0.0, -difference)
    variance = documents * (2 * q + difference * (1 - difference))
    error = gained - lost - documents * difference
    if variance <= 0:
        return 0.0 if error == 0 else math.copysign(math.inf, error)
    return error / math.sqrt(variance)
