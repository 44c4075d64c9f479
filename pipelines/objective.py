"""Targets of a recipe's objective: ``metric: ">= 0.30"`` checked against measured results."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Target:
    """One condition on one metric."""

    metric: str
    comparison: str
    bound: float

    def check(self, metrics: Mapping[str, float]) -> TargetResult:
        """Hold the target against measured values; a metric that was not measured is not met."""
        value = metrics.get(self.metric)
        met = value is not None and _COMPARE[self.comparison](value, self.bound)
        return TargetResult(self.metric, f"{self.comparison} {self.bound:g}", value, met)


@dataclass(frozen=True)
class TargetResult:
    """A target's outcome.

    Attributes:
        value: None where the metric was not measured.
        measured_on: the set of questions behind a score; empty for other metrics.
    """

    metric: str
    condition: str
    value: float | None
    met: bool
    measured_on: str = ""

    @property
    def label(self) -> str:
        """The metric's name for a person, never a sample's score without saying so."""
        return f"{self.metric} ({self.measured_on})" if self.measured_on else self.metric


def parse_target(metric: str, condition: str) -> Target:
    """Read one target.

    Raises:
        ValueError: the condition is not a comparison with a number.
    """
    match = re.fullmatch(r"\s*(<=|>=|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*", condition)
    if not match:
        raise ValueError(f"target {metric!r} reads {condition!r}; write a comparison such as '>= 0.30' or '< 1'")
    return Target(metric, match[1], float(match[2]))
