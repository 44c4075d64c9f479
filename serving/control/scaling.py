"""How many replicas an engine should have: pure arithmetic over what the gateways count.

Requests in flight and waiting are counted for the whole engine, not a replica, so replicas that are still starting
do not make the need grow. It rises at once, as far as a burst lasts; it falls after a quiet time, and only to the
most that was needed within it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BURST_SECONDS = 0.8
"""More must be needed for so long (two reports) before a replica is added; one that wakes a sleeping engine is not."""


@dataclass(frozen=True)
class Bounds:
    """What an engine may have, and what it aims at.

    Attributes:
        least, most: replicas.
        target_ongoing: requests in flight that one replica should have.
        idle_seconds: quiet time before replicas are given up.
    """

    least: int
    most: int
    target_ongoing: int
    idle_seconds: float


@dataclass(frozen=True)
class Scale:
    """An engine's number of replicas, and since when another would do.

    Attributes:
        target: replicas it should have now.
        above_since: when more began to be needed, in the clock of ``now``; None while they are not.
        below_since: when fewer began to be enough; None while they are not.
        peak: the most that was needed since ``below_since``.
    """

    target: int
    above_since: float | None = None
    below_since: float | None = None
    peak: int = 0


def needed(requests: int, bounds: Bounds) -> int:
    """Replicas for so many requests in flight and waiting."""
    return min(max(math.ceil(requests / bounds.target_ongoing), bounds.least), bounds.most)


def decide(scale: Scale, requests: int, bounds: Bounds, now: float) -> Scale:
    """The scale after one more look.

    Args:
        requests: in flight at the engine's replicas, and waiting for one of them.
        now: seconds on a clock that never goes back.
    """
    target = min(max(scale.target, bounds.least), bounds.most)
    if target != scale.target:
        return Scale(target)
    need = needed(requests, bounds)
    if need > target:
        since = now if scale.above_since is None else scale.above_since
        if target == 0 or now - since >= BURST_SECONDS:
            return Scale(need)
        return Scale(target, above_since=since)
    if need == target:
        return Scale(target)
    since, peak = (now, need) if scale.below_since is None else (scale.below_since, max(scale.peak, need))
    if now - since >= bounds.idle_seconds:
        return Scale(peak)
    return Scale(target, below_since=since, peak=peak)
