"""How many users a guardrail needs, how long that takes, and which effects it can see by then.

All figures come from the tests themselves, run on what an average course of the step would show: a candidate like the
baseline passes at ``n`` units when the upper end of its confidence sequence, with room for chance (the standard normal
quantile of the power, in standard errors), is within the margin. That is the chance of passing at ``n`` alone; earlier
looks only add to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from serving.evidence import bounded, means, quantiles
from serving.evidence.bounded import Tally
from serving.evidence.means import Moments
from serving.evidence.quantiles import Sketch

MOST_UNITS = 10**9

ASSUMED_RATE = Tally(1000, 10.0)
"""Outcomes of a baseline that nothing is known of: an error rate of 1 %."""

ASSUMED_LOG_SECONDS = Moments(1000, 0.0, 999 * 0.5**2)
"""Logs of its seconds: users differ by a standard deviation of 0.5, a factor of about 1.6."""


def assumed_latencies() -> Sketch:
    """Its latencies: log-normal around one second, as :data:`ASSUMED_LOG_SECONDS`."""
    spread = NormalDist(0.0, 0.5)
    return Sketch(0, {}) + sum(
        (Sketch().add([math.exp(spread.inv_cdf((index + 0.5) / 1000))]) for index in range(1000)), Sketch()
    )


@dataclass(frozen=True)
class Design:
    """One step of a rollout.

    Attributes:
        share: of the units on the candidate, above 0 and below 1.
        alpha: of each guardrail's test in this step.
        power: the chance to find what is there.
        minimum_units: that each side needs in any case.
        units_per_second: new units on both sides together; None where it is not known.
        maximum_seconds: when the step times out.
    """

    share: float
    alpha: float
    power: float = 0.8
    minimum_units: int = 0
    units_per_second: float | None = None
    maximum_seconds: float = math.inf


@dataclass(frozen=True)
class Plan:
    """What to expect of one guardrail in one step.

    Attributes:
        units: on both sides together until a candidate like the baseline passes; None where it never would (a
            superiority test, or more than a thousand million).
        candidate_units: those of them on the candidate.
        seconds: until then; None where units or their rate are not known.
        in_time: whether it can pass before the step times out; None where no rate is known.
    """

    units: int | None
    candidate_units: int | None
    seconds: float | None
    in_time: bool | None


def plan(
    typical: Tally | Moments | Sketch,
    margin: float,
    design: Design,
    *,
    relative: bool = False,
    quantile: float = 0.95,
) -> Plan:
    """Expectations for one guardrail.

    Args:
        typical: outcomes of the baseline from before, or assumed ones; only their distribution is used.
        margin: as in the comparison.
        design: of the step.
        relative: whether a mean is of logs and its margin a fraction; quantiles always are compared so.
        quantile: the one that is compared.
    """
    scale = relative or isinstance(typical, Sketch)
    goal = math.log1p(margin) if scale else margin
    needed = _units_for(typical, goal, design, quantile)
    rate = design.units_per_second
    least = math.ceil(design.minimum_units / min(design.share, 1 - design.share))
    units = None if needed is None else max(needed, least)
    seconds = units / rate if units is not None and rate else None
    return Plan(
        units=units,
        candidate_units=None if units is None else math.ceil(units * design.share),
        seconds=seconds,
        in_time=None if not rate else seconds is not None and seconds <= design.maximum_seconds,
    )


def resolution(typical: Tally | Moments | Sketch, units: int, design: Design, quantile: float = 0.95) -> float:
    """How far below the margin a candidate must be to pass with the design's power at so many units, as a difference
    (of logs where the comparison is of ratios); infinite where it never does."""
    if (arms := _arms(typical, units, design)) is None:
        return math.inf
    old, new = arms
    room = _room(old, new, design, quantile)
    if isinstance(new, Tally):
        # more errors than expected also widen the sequence, so that they are put into the outcomes themselves
        new, room = Tally(new.n, min(max(new.total + room * new.n, 0.0), float(new.n))), 0.0
    return _ends(old, new, design.alpha, quantile)[1] + room


def detectable_harm(
    typical: Tally | Moments | Sketch, units: int, design: Design, margin: float = 0.0, quantile: float = 0.95
) -> float:
    """Minimum detectable effect: how far beyond the margin a candidate must be for an alarm with the design's power at
    so many units, as :func:`resolution`; infinite where none would be raised.

    A candidate that fails more often also varies more, so that for outcomes this is more than the resolution.
    """
    if (arms := _arms(typical, units, design)) is None:
        return math.inf
    old, new = arms
    if not (isinstance(old, Tally) and isinstance(new, Tally)):
        return _room(old, new, design, quantile) - _ends(old, new, design.alpha, quantile)[0]
    rate = old.mean + margin

    def alarms(effect: float) -> bool:
        true = Tally(new.n, new.n * (rate + effect))
        unlucky = max(true.total - new.n * _room(old, true, design, quantile), 0.0)
        found = bounded.compare(old, Tally(new.n, unlucky), margin=margin, alpha=design.alpha)
        return found.log_e_harm >= math.log(1 / design.alpha)

    low, high = 0.0, 1 - rate
    if high <= 0 or not alarms(high):
        return math.inf
    while high - low > high / 1000:
        middle = (low + high) / 2
        low, high = (low, middle) if alarms(middle) else (middle, high)
    return high


def _arms(
    typical: Tally | Moments | Sketch, units: int, design: Design
) -> tuple[Tally | Moments | Sketch, Tally | Moments | Sketch] | None:
    """What both sides show on average at so many units; None where one has none."""
    candidate = round(units * design.share)
    baseline = units - candidate
    return (_scaled(typical, baseline), _scaled(typical, candidate)) if min(candidate, baseline) >= 1 else None


def _room(old: Tally | Moments | Sketch, new: Tally | Moments | Sketch, design: Design, quantile: float) -> float:
    """Room for chance."""
    return NormalDist().inv_cdf(design.power) * math.hypot(_error(old, quantile), _error(new, quantile))


def _units_for(typical: Tally | Moments | Sketch, goal: float, design: Design, quantile: float) -> int | None:
    """Least number of units whose resolution is within the goal."""
    if goal <= 0 or resolution(typical, MOST_UNITS, design, quantile) > goal:
        return None
    low, high = 1, 2
    while resolution(typical, high, design, quantile) > goal:
        low, high = high, high * 2
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        if resolution(typical, middle, design, quantile) > goal:
            low = middle
        else:
            high = middle
    return high


def _scaled(typical: Tally | Moments | Sketch, n: int) -> Tally | Moments | Sketch:
    """The same distribution as if n units had shown it."""
    if isinstance(typical, Tally):
        # a baseline without a single error is not one that never errs
        mean = (typical.total + bounded.PRIOR) / (typical.n + 2 * bounded.PRIOR)
        return Tally(n, n * mean)
    if isinstance(typical, Moments):
        return Moments(n, typical.mean, typical.m2 / max(typical.n - 1, 1) * max(n - 1, 0))
    return Sketch(n, {index: weight * n / typical.n for index, weight in typical.weights.items()})


def _ends(
    baseline: Tally | Moments | Sketch, candidate: Tally | Moments | Sketch, alpha: float, quantile: float
) -> tuple[float, float]:
    """Ends of the confidence sequence, of logs for quantiles."""
    scale: Callable[[float], float] = float
    if isinstance(baseline, Tally) and isinstance(candidate, Tally):
        found = bounded.compare(baseline, candidate, margin=0.0, alpha=alpha)
    elif isinstance(baseline, Moments) and isinstance(candidate, Moments):
        found = means.compare(baseline, candidate, margin=0.0, alpha=alpha)
    else:
        assert isinstance(baseline, Sketch) and isinstance(candidate, Sketch)
        found = quantiles.compare(baseline, candidate, margin=0.0, alpha=alpha, quantile=quantile)
        scale = math.log1p
    return (
        -math.inf if found.low is None or (scale is math.log1p and found.low <= -1) else scale(found.low),
        math.inf if found.high is None else scale(found.high),
    )


def _error(arm: Tally | Moments | Sketch, quantile: float) -> float:
    """Standard error of the arm's mean, or of its quantile's log."""
    if isinstance(arm, Tally):
        return math.sqrt(arm.mean * (1 - arm.mean) / arm.n)
    if isinstance(arm, Moments):
        return math.sqrt(arm.m2 / max(arm.n - 1, 1) / arm.n)
    shares = arm.cumulated() / arm.n
    spread = math.sqrt(quantile * (1 - quantile) / arm.n)
    if quantile + spread >= 1 or quantile - spread <= 0:
        return math.inf
    edges = np.interp([quantile - spread, quantile + spread], shares, np.arange(shares.size))
    return float(edges[1] - edges[0]) / 2 * quantiles.STEP
