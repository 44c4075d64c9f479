"""A document as the report shows it."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.curate.samples.excerpt import Piece


@dataclass(frozen=True)
class Sample:
    """A dropped document for a person to look at.

    Attributes:
        note: what was found, in words.
        pieces: of its text.
        keeper: of a duplicate, the path and id of the document that stays; empty otherwise.
        beside: pieces of that one.
    """

    id: str
    source: str
    path: str
    note: str
    pieces: tuple[Piece, ...]
    keeper: str = ""
    beside: tuple[Piece, ...] = ()
