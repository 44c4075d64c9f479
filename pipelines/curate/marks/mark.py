"""A mark: places in a text and a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Place = tuple[int, int]
"""Start and end, in characters of a text."""

LOOKED_AT = 2_000_000
"""Characters from the beginning of a document in which marks are looked for; beyond, a report's sample has no room."""


@dataclass(frozen=True)
class Mark:
    """What is wrong with a document, where a part of it can be shown.

    Attributes:
        note: what was measured and what was asked for.
        places: of the offending parts, in order, none empty, none overlapping; none where it is the whole text, or
            what is missing from it.
    """

    note: str
    places: tuple[Place, ...] = ()


def mark(note: str, places: Iterable[Place] = ()) -> Mark:
    """A mark with places in any order; overlapping ones become one."""
    return Mark(note, joined(places))


def joined(places: Iterable[Place]) -> tuple[Place, ...]:
    """Places in order, those that overlap or touch as one, empty ones left out."""
    done: list[Place] = []
    for start, end in sorted(places):
        if end <= start:
            continue
        if done and start <= done[-1][1]:
            done[-1] = done[-1][0], max(done[-1][1], end)
        else:
            done.append((start, end))
    return tuple(done)


def matches(pattern: re.Pattern[str], text: str) -> Iterator[Place]:
    """Where a pattern occurs."""
    return (found.span() for found in pattern.finditer(text))


def lines(text: str, keep: Callable[[str], bool]) -> Iterator[Place]:
    """The lines that ``keep`` says yes to, without blanks around them; lines end where ``str.splitlines`` says."""
    position = 0
    for line in text.splitlines(keepends=True):
        if keep(line):
            yield trimmed(line, position)
        position += len(line)


def trimmed(piece: str, position: int) -> Place:
    """Where a piece of text that begins at a position stands without the blanks around it."""
    start = position + len(piece) - len(piece.lstrip())
    return start, max(start, position + len(piece.rstrip()))


def pieces(text: str, border: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """The position and text of what stands between borders, empty pieces too, as ``border.split``."""
    position = 0
    for found in border.finditer(text):
        yield position, text[position : found.start()]
        position = found.end()
    yield position, text[position:]


def seen_before(parts: Iterable[tuple[int, str]]) -> Iterator[Place]:
    """Of pieces given with their positions, those that are equal to an earlier one."""
    seen = set()
    for position, piece in parts:
        if piece in seen:
            yield position, position + len(piece)
        seen.add(piece)
