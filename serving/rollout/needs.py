"""What keeps a step's guardrails open: per guardrail why, and how many more users would settle it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.rollout.config import GuardrailConfig
from serving.rollout.decision import Finding
from serving.rollout.machine import Machine
from serving.rollout.plan import Expectation, plan_rollout

NEARLY = 0.1
"""Sides that lack numbers which differ by no more than this part are named together."""


@dataclass(frozen=True)
class Need:
    """One guardrail that is not shown to hold yet, in a step that must show it.

    Attributes:
        metric: the guardrail's.
        why: in words, with the users that are missing as far as that can be said.
        baseline: users with the metric that the baseline still needs, about; None where that cannot be said.
        candidate: likewise.
        seconds: until they have come, at the rate so far; None where that cannot be said.
    """

    metric: str
    why: str
    baseline: int | None = None
    candidate: int | None = None
    seconds: float | None = None


def open_needs(machine: Machine, busy_seconds: float) -> tuple[Need, ...]:
    """What each open guardrail waits for; empty in steps that need not show them to hold.

    Args:
        busy_seconds: for how long units have been counted in the step.
    """
    if machine.status != "running" or machine.phase != "comparing" or not machine.deciding:
        return ()
    findings = {finding.metric: finding for finding in machine.evidence.findings()}
    rails = {rail.metric: rail for rail in machine.config.guardrails}
    plans = {row.metric: row for row in plan_rollout(machine.config).guardrails}
    return tuple(
        _need(machine, rails[metric], findings[metric], plans[metric], busy_seconds) for metric in machine.not_shown()
    )


def _need(machine: Machine, rail: GuardrailConfig, finding: Finding, row: Expectation, busy_seconds: float) -> Need:
    config = machine.config
    have = {config.baseline: finding.baseline_units, config.candidate: finding.candidate_units}
    silent = [name for name, units in have.items() if not units]
    parts = [f"not measured on {' and '.join(silent)} yet"] if silent else []
    more = _by_plan(machine, finding, row)
    if more is not None:
        parts.append(f"needs {_words(more, machine)} if the variants are alike")
    elif not silent:
        more, words = _by_interval(rail, finding, machine)
        parts.append(words)
    elif row.units is None:
        parts.append("how many users it takes cannot be planned")
    if more is None:
        return Need(finding.metric, "; ".join(parts))
    rates = [(missing, units) for missing, units in zip(more, have.values(), strict=True) if missing]
    known = busy_seconds > 0 and all(units for _, units in rates)
    seconds = max((missing * busy_seconds / units for missing, units in rates), default=0.0) if known else None
    return Need(finding.metric, "; ".join(parts), *more, seconds)


def _by_plan(machine: Machine, finding: Finding, row: Expectation) -> tuple[int, int] | None:
    """Users that each side lacks to what was planned at the start; None where none are, or nothing was."""
    if row.units is None:
        return None
    decisive, here = machine.config.compared_steps[-1] / 100, machine.shares[machine.step] / 100
    # a smaller side sees as much as an equal split of 4 s (1 - s) times the units
    planned = row.units * decisive * (1 - decisive) / (here * (1 - here))
    baseline = max(0, math.ceil(planned * (1 - here)) - finding.baseline_units)
    candidate = max(0, math.ceil(planned * here) - finding.candidate_units)
    return (baseline, candidate) if baseline or candidate else None


def _by_interval(rail: GuardrailConfig, finding: Finding, machine: Machine) -> tuple[tuple[int, int] | None, str]:
    """Users that it takes until the interval leaves the margin out, if it shrinks as the root of their number."""
    sign = 1.0 if rail.lower_is_better else -1.0
    worst = finding.high if rail.lower_is_better else finding.low
    if finding.estimate is None or worst is None:
        return None, "its interval is not known yet, with more users than planned"
    estimate, end, goal = sign * finding.estimate, sign * worst, rail.margin
    if rail.relative:
        estimate, end, goal = (math.log1p(value) for value in (estimate, end, goal))
    room = goal - estimate
    if room <= 0:
        wanted = "better than" if rail.test == "superiority" else "within the margin of"
        return None, f"{machine.config.candidate} does not look {wanted} {machine.config.baseline} now"
    factor = max(0.0, ((end - estimate) / room) ** 2 - 1)
    units = (finding.baseline_units, finding.candidate_units)
    more = (max(1, math.ceil(units[0] * factor)), max(1, math.ceil(units[1] * factor)))
    return more, f"needs {_words(more, machine)} if the difference stays as it looks now"


def _words(more: tuple[int, int], machine: Machine) -> str:
    config = machine.config
    unit, (baseline, candidate) = f"{config.unit}s", more
    if abs(baseline - candidate) <= NEARLY * max(more):
        return f"about {max(more):,} more {unit} a side"
    named = [(baseline, config.baseline), (candidate, config.candidate)]
    return f"about {' and '.join(f'{number:,} more {unit} on {name}' for number, name in named if number)}"
