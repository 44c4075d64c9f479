"""A decision and the numbers that made it, as recorded, printed and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

What = Literal[
    "start",
    "begin",
    "hold",
    "advance",
    "bake",
    "promote",
    "rollback",
    "timeout",
    "false_alarm",
    "finish",
    "pause",
    "resume",
    "weights",
]


@dataclass(frozen=True)
class Finding:
    """What one guardrail's numbers say in a step, up to a moment.

    Attributes:
        metric: the guardrail's metric.
        test: non_inferiority or superiority.
        margin: how much worse is acceptable, in the unit of ``estimate``.
        relative: whether estimate, interval and margin are fractions of the baseline's value.
        baseline_units: units of the baseline that have the metric.
        candidate_units: of the candidate.
        estimate: candidate against baseline; None before both have units.
        low: lower end of the confidence sequence at 1 - alpha; None where it is unbounded.
        high: upper end, likewise.
        p_harm: always-valid p-value of "not worse than the margin": small means harm.
        p_pass: always-valid p-value of "as bad as the margin, or worse": small means that the guardrail holds.
    """

    metric: str
    test: str
    margin: float
    relative: bool
    baseline_units: int
    candidate_units: int
    estimate: float | None
    low: float | None
    high: float | None
    p_harm: float
    p_pass: float


@dataclass(frozen=True)
class Decision:
    """One entry of a rollout's timeline.

    Attributes:
        number: counts the rollout's decisions, from 1.
        at: seconds since the epoch.
        what: the kind of decision.
        step: the step it was made in, counted from 1.
        share: the candidate's share of the pair's users in that step, in per cent.
        why: one sentence.
        by: ``rollout``, or the person whose change it is.
        ratio_p: always-valid p-value of the sample ratio in this step: small means that users are missing on a side.
        findings: one for each guardrail that is tested in the step.
        gave_up_p: likewise of callers who leave before an answer begins: small means that more leave the candidate.
        sides: side -> what was counted there: units, requests, errors, retried, fallback, gave_up.
        excluded: ``side.reason`` -> requests that were left out in this step.
    """

    number: int
    at: float
    what: What
    step: int
    share: float
    why: str
    by: str = "rollout"
    ratio_p: float = 1.0
    gave_up_p: float = 1.0
    findings: tuple[Finding, ...] = ()
    sides: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"findings": [asdict(finding) for finding in self.findings]}

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> Decision:
        """What :meth:`encode` gave."""
        findings = tuple(Finding(**finding) for finding in values["findings"])
        return cls(**{**values, "findings": findings})
