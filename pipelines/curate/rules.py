"""A set of rules: what it measures in a document, as plain numbers, and the limits that decide about them.

Scores are kept beside a document's id, so that other limits can decide again without the text ("tag once, decide many
times"). Where only a decision is asked for, what no rule came to ask is not measured.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

DocumentT = TypeVar("DocumentT")

Measures = Mapping[str, Callable[[DocumentT], float]]
"""The name of a score -> how it is measured."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule: a document whose score breaks the limit is dropped for the reason.

    Attributes:
        breaks: ``operator.lt`` or ``operator.gt``.
    """

    reason: str
    score: str
    breaks: Callable[[float, float], bool]
    limit: float


def at_least(reason: str, score: str, limit: float | None) -> list[Limit]:
    """The rule that a score is that much or more; none where the limit is None."""
    return [] if limit is None else [Limit(reason, score, operator.lt, limit)]


def at_most(reason: str, score: str, limit: float | None) -> list[Limit]:
    """The rule that a score is that much or less; none where the limit is None."""
    return [] if limit is None else [Limit(reason, score, operator.gt, limit)]


def judge(scores: Mapping[str, float], limits: Iterable[Limit]) -> str | None:
    """The reason of the first limit that is broken, or None. KeyError for a score that was not kept."""
    for each in limits:
        if each.breaks(scores[each.score], each.limit):
            return each.reason
    return None


@dataclass(frozen=True)
class RuleSet(Generic[DocumentT]):
    """What is measured and the limits, in the order in which they are tried.

    Attributes:
        shortcuts: what is asked in place of a measure where only a decision is wanted: right about the limit alone.
    """

    measures: Measures[DocumentT]
    limits: tuple[Limit, ...]
    shortcuts: Measures[DocumentT] = field(default_factory=dict)

    def scores(self, document: DocumentT) -> dict[str, float]:
        """Every score of the document."""
        return {name: measure(document) for name, measure in self.measures.items()}

    def judge(self, scores: Mapping[str, float]) -> str | None:
        """The first rule that the scores break, or None."""
        return judge(scores, self.limits)

    def decide(self, document: DocumentT) -> str | None:
        """The first rule that the document breaks, or None; stops measuring there."""
        return judge(
            _Asked({**self.measures, **self.shortcuts} if self.shortcuts else self.measures, document), self.limits
        )


class _Asked(dict[str, float], Generic[DocumentT]):
    """Scores that are measured when they are asked for."""

    def __init__(self, measures: Measures[DocumentT], document: DocumentT) -> None:
        super().__init__()
        self._measures, self._document = measures, document

    def __missing__(self, name: str) -> float:
        value = self[name] = self._measures[name](self._document)
        return value
