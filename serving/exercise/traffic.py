"""What came of an exercise's requests, and what it shows; plain data and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

KINDS = ("completion", "chat", "completion stream", "chat stream")
SPLIT_Z = 4.0
"""Users are hashed, so a split of few users is off by chance; beyond four standard errors it is not chance (6e-5)."""

Engines = Mapping[str, tuple[tuple[int, float], ...]]


@dataclass(frozen=True)
class Call:
    """One request and its answer.

    Attributes:
        phase: ``before``, ``during`` or ``after`` the change of weights.
        user: the user key it was sent for.
        kind: one of KINDS.
        variant: who answered, from the answer's header.
        seconds: from sending it to the answer's end.
        first_token_seconds: to the first piece, for streams.
        tokens: tokens (or streamed pieces) in the answer.
        error: what went wrong; empty where nothing did.
    """

    phase: str
    user: str
    kind: str
    variant: str
    seconds: float
    first_token_seconds: float | None
    tokens: int
    error: str


@dataclass(frozen=True)
class Split:
    """A variant's part in a phase: users and requests against the weights."""

    variant: str
    expected_share: float
    users: int
    user_share: float
    requests: int
    request_share: float


@dataclass(frozen=True)
class Latency:
    """Seconds that a variant's answers took: median and 95th percentile, whole and to the first token of a stream."""

    variant: str
    requests: int
    p50_seconds: float
    p95_seconds: float
    first_token_p50_seconds: float | None
    first_token_p95_seconds: float | None


@dataclass
class TrafficReport:
    """The record of an exercise.

    Attributes:
        engines_before: variant -> (process id, start time) of its engines, before the change of weights.
        assigned_before: user -> the variant that the weights before give.
        moved_share: share of all possible users, 0 … 1, that the change moved.
        switch_seconds: how long the change took until every gateway had it.
    """

    model: str
    weights_before: Mapping[str, float]
    weights_after: Mapping[str, float]
    calls: list[Call] = field(default_factory=list)
    engines_before: Engines = field(default_factory=dict)
    engines_after: Engines = field(default_factory=dict)
    assigned_before: Mapping[str, str] = field(default_factory=dict)
    assigned_after: Mapping[str, str] = field(default_factory=dict)
    moved_share: float = 0.0
    switch_seconds: float = 0.0

    def phase(self, name: str) -> list[Call]:
        """The answered requests of a phase."""
        return [call for call in self.calls if call.phase == name and not call.error]

    @property
    def failures(self) -> list[Call]:
        """Requests that were not answered."""
        return [call for call in self.calls if call.error]

    def splits(self, phase: str) -> list[Split]:
        """How a phase's users and requests were split, in the variants' order."""
        weights = self.weights_before if phase == "before" else self.weights_after
        total = math.fsum(weights.values())
        calls = self.phase(phase)
        users = {call.user for call in calls}
        result = []
        for variant, weight in weights.items():
            own = [call for call in calls if call.variant == variant]
            own_users = {call.user for call in own}
            result.append(
                Split(
                    variant=variant,
                    expected_share=weight / total,
                    users=len(own_users),
                    user_share=len(own_users) / max(1, len(users)),
                    requests=len(own),
                    request_share=len(own) / max(1, len(calls)),
                )
            )
        return result

    def violations(self) -> list[str]:
        """Every user that changed its variant though the weights did not, or was not on the one assigned to it."""
        found = []
        for phase, assigned in (("before", self.assigned_before), ("after", self.assigned_after)):
            seen: dict[str, set[str]] = {}
            for call in self.phase(phase):
                seen.setdefault(call.user, set()).add(call.variant)
            for user, variants in sorted(seen.items()):
                if variants != {assigned.get(user)}:
                    got, should = ", ".join(sorted(variants)), assigned.get(user)
                    found.append(f"{user}: answered by {got} {phase} the change, assigned to {should}")
        for call in self.phase("during"):
            if call.variant not in (self.assigned_before.get(call.user), self.assigned_after.get(call.user)):
                found.append(f"{call.user}: answered by {call.variant} during the change")
        return found

    def latencies(self) -> list[Latency]:
        """Latency by variant over all phases."""
        result = []
        for variant in self.weights_before:
            own = [call for call in self.calls if call.variant == variant and not call.error]
            if own:
                whole = [call.seconds for call in own]
                first = [call.first_token_seconds for call in own if call.first_token_seconds is not None]
                result.append(
                    Latency(
                        variant=variant,
                        requests=len(own),
                        p50_seconds=quantile(whole, 0.5),
                        p95_seconds=quantile(whole, 0.95),
                        first_token_p50_seconds=quantile(first, 0.5) if first else None,
                        first_token_p95_seconds=quantile(first, 0.95) if first else None,
                    )
                )
        return result

    @property
    def moved_users(self) -> int:
        """How many of the exercise's users the change moved."""
        return sum(variant != self.assigned_after.get(user) for user, variant in self.assigned_before.items())

    def checks(self) -> dict[str, bool]:
        """What the exercise set out to show, and whether it did."""
        after = {call.variant for call in self.phase("after")}
        allowed = {variant for variant, weight in self.weights_after.items() if weight > 0}
        return {
            "every request was answered": bool(self.calls) and not self.failures,
            "every user stayed on one variant": not self.violations(),
            "the split is the configured one": all(map(self._plausible, self.splits("before"))),
            "after the change only the new weights answer": bool(after) and after <= allowed,
            "no engine restarted": bool(self.engines_before) and self.engines_before == self.engines_after,
        }

    def _plausible(self, split: Split) -> bool:
        users = len({call.user for call in self.phase("before")})
        error = math.sqrt(split.expected_share * (1 - split.expected_share) / max(1, users))
        return abs(split.user_share - split.expected_share) <= SPLIT_Z * error + 1e-9

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(self.checks().values())

    def metrics(self) -> dict[str, float]:
        """The figures under dotted names; seconds and shares (0 … 1)."""
        figures: dict[str, float] = {
            "serving.requests": float(len(self.calls)),
            "serving.failed": float(len(self.failures)),
            "serving.sticky_violations": float(len(self.violations())),
            "serving.moved_users": float(self.moved_users),
            "serving.switch_seconds": self.switch_seconds,
        }
        for split in self.splits("before"):
            figures[f"serving.{split.variant}.share"] = split.request_share
        for latency in self.latencies():
            figures[f"serving.{latency.variant}.p50_seconds"] = latency.p50_seconds
            figures[f"serving.{latency.variant}.p95_seconds"] = latency.p95_seconds
            if latency.first_token_p50_seconds is not None:
                figures[f"serving.{latency.variant}.first_token_p50_seconds"] = latency.first_token_p50_seconds
        return figures


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: the smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
