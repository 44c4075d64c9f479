"""Places in a text that are to be replaced, and the scan that several recognisers share."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

from pipelines.curate.redaction.config import PLACEHOLDERS

_RUN = re.compile(r"[0-9](?:[ ./()\u00a0\u2010-\u2015-]{0,3}[0-9]){5,}")
_CONTEXT_CHARACTERS = 48
_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS.values())))


class Span(NamedTuple):
    """Characters ``start`` to ``end`` (excluded) of a text are of a type, a key of PLACEHOLDERS."""

    start: int
    end: int
    type: str


class Scan:
    """A text and what is found out about it once for all recognisers."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Start and end of all runs of six or more digits with at most three separators between any two of them."""
        return [match.span() for match in _RUN.finditer(self.text)]

    def says_before(self, start: int, words: re.Pattern[str]) -> bool:
        """Whether one of the words stands shortly before a place."""
        return words.search(self.text, max(0, start - _CONTEXT_CHARACTERS), start) is not None

    def stands_alone(self, start: int, end: int) -> bool:
        """Whether neither a letter nor a digit touches the span."""
        text = self.text
        return not (
            (start > 0 and (text[start - 1].isalnum() or text[start - 1] == "_"))
            or (end < len(text) and (text[end].isalnum() or text[end] == "_"))
        )


Finder = Callable[[Scan], Iterable[tuple[int, int]]]
"""Yields the (start, end) of what it recognises, in any order."""


def without_overlaps(text: str, found: Iterable[Span]) -> list[Span]:
    """The spans by place; of two that overlap the one that came first in ``found`` stays. Placeholders are left."""
    kept = [Span(*match.span(), "") for match in _PLACEHOLDER.finditer(text)] if "<" in text else []
    for span in found:
        place = bisect.bisect_left(kept, span)
        free = place == 0 or kept[place - 1].end <= span.start
        if free and (place == len(kept) or kept[place].start >= span.end):
            kept.insert(place, span)
    return [span for span in kept if span.type]
