"""What a rollout can see and how long it takes, said before it begins: per guardrail and in all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from cluster.progress import duration
from serving.evidence import planning
from serving.evidence.bounded import Tally
from serving.evidence.means import Moments
from serving.evidence.planning import Design
from serving.evidence.quantiles import Sketch
from serving.rollout.config import GuardrailConfig, RolloutConfig

ASSUMED_SHARE = Tally(1000, 500.0)
"""Of a reported metric within 0 and 1 nothing is known: a half varies most, so that the plan errs on the safe side."""


@dataclass(frozen=True)
class Expectation:
    """What to expect of one guardrail in the step that decides.

    Attributes:
        metric: the guardrail's.
        margin: how much worse is acceptable.
        relative: whether margin and effects are fractions of the baseline's value.
        assumed: what is assumed of the baseline; empty where nothing could be.
        detectable_at_minimum: minimum detectable effect: harm so far beyond the margin raises the alarm, with the
            wanted power, when both sides have just their minimum of units; None where no effect would.
        units: on both sides together until a candidate like the baseline passes; None where it would not.
        seconds: until then at the assumed rate.
    """

    metric: str
    margin: float
    relative: bool
    assumed: str
    detectable_at_minimum: float | None
    units: int | None
    seconds: float | None


@dataclass(frozen=True)
class RolloutPlan:
    """Expectations of a whole rollout.

    Attributes:
        share: of the users on the candidate in the step that decides, in per cent.
        units_per_second: new units on both sides that the durations stand on.
        guardrails: one each, in the configuration's order.
        seconds: in all, for a candidate like the baseline; None where a guardrail would not pass.
    """

    share: float
    units_per_second: float
    guardrails: tuple[Expectation, ...]
    seconds: float | None


@lru_cache(maxsize=16)
def plan_rollout(config: RolloutConfig) -> RolloutPlan:
    """Expectations from assumed baselines; see :mod:`serving.evidence.planning`."""
    units_per_second = config.users_per_minute / 60
    share = config.compared_steps[-1] / 100
    design = Design(
        share=share,
        alpha=config.alpha,
        power=config.power,
        minimum_units=config.minimum_units,
        units_per_second=units_per_second,
    )
    alarm = replace(design, alpha=config.alarm_alpha)
    rows = tuple(_expect(guardrail, design, alarm) for guardrail in config.guardrails)
    return RolloutPlan(100 * share, units_per_second, rows, _seconds_in_all(config, rows, units_per_second))


def _expect(guardrail: GuardrailConfig, design: Design, alarm: Design) -> Expectation:
    typical, words = _typical(guardrail)
    if typical is None:
        return Expectation(guardrail.metric, guardrail.margin, guardrail.relative, "", None, None, None)
    least = math.ceil(design.minimum_units / min(design.share, 1 - design.share))
    margin = 0.0 if guardrail.relative else max(guardrail.margin, 0.0)
    found = planning.detectable_harm(typical, least, alarm, margin)
    if guardrail.relative and math.isfinite(found):
        found = math.expm1(min(found, 700.0))
    plan = planning.plan(typical, guardrail.margin, design, relative=guardrail.relative)
    return Expectation(
        metric=guardrail.metric,
        margin=guardrail.margin,
        relative=guardrail.relative,
        assumed=words,
        detectable_at_minimum=found if math.isfinite(found) and (guardrail.relative or found < 1) else None,
        units=plan.units,
        seconds=plan.seconds,
    )


def _typical(guardrail: GuardrailConfig) -> tuple[Tally | Moments | Sketch | None, str]:
    """What is assumed of a baseline that nothing is known of, and in words."""
    if guardrail.metric == "error_rate":
        return planning.ASSUMED_RATE, "1 % of the requests fail"
    if guardrail.metric == "latency_p95_seconds":
        return planning.assumed_latencies(), "users differ by a factor of 1.6"
    if guardrail.relative:
        return planning.ASSUMED_LOG_SECONDS, "users differ by a factor of 1.6"
    if guardrail.bounded:
        return ASSUMED_SHARE, "a mean of 0.5"
    return None, ""


def _seconds_in_all(config: RolloutConfig, rows: tuple[Expectation, ...], rate: float) -> float | None:
    total = config.bake_seconds if config.mode == "ab" else 0.0
    for index, step in enumerate(config.compared_steps):
        deciding = config.mode == "ab" and (config.require == "every_step" or index == len(config.compared_steps) - 1)
        share = step / 100
        units: float | None = config.minimum_units / min(share, 1 - share)
        if deciding:
            # a smaller side sees as much as an equal split of 4 s (1 - s) times the units
            decisive = config.compared_steps[-1] / 100
            worth = decisive * (1 - decisive) / (share * (1 - share))
            units = None if any(row.units is None for row in rows) else max(row.units or 0 for row in rows) * worth
        if units is None:
            return None
        total += max(config.minimum_seconds, config.window_seconds + units / rate)
    return total


def effect(value: float | None, *, relative: bool) -> str:
    """An effect as a person writes it: ``12 %`` of the baseline's value, or ``0.012``."""
    if value is None:
        return ""
    return f"{100 * value:.3g} %" if relative else f"{value:.3g}"


def plan_sentence(config: RolloutConfig) -> str:
    """The plan in a sentence, for the record."""
    plan = plan_rollout(config)
    steps = ", ".join(f"{step:g}" for step in config.compared_steps)
    kind = "an A/A rollout" if config.mode == "aa" else "a rollout"
    long = f"takes about {duration(plan.seconds)}" if plan.seconds is not None else "may never pass"
    seen = "; ".join(
        f"{row.metric} {effect(row.detectable_at_minimum, relative=row.relative) or 'nothing yet'}"
        for row in plan.guardrails
    )
    end = "" if config.mode == "aa" else " and then 100"
    return (
        f"{kind} of {config.candidate} against {config.baseline} over {steps}{end} % of the users; a candidate like "
        f"the baseline {long} at {60 * plan.units_per_second:g} new {config.unit}s a minute; harm beyond the "
        f"margin that is detectable at {config.minimum_units:,} {config.unit}s a side: {seen}"
    )
