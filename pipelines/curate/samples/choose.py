"""Which documents are shown for a reason: those whose ids have the smallest hashes.

So workers, parts, order and resumption change nothing, and each part has to remember ten ids a reason and no text.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import xxhash

SAMPLES = 10
"""Documents shown for each reason."""

MOST_REASONS = 200
"""Reasons of which any are shown, the first by name: a filter of the user's may give every document another one."""

_SEED = 0x5A3B1E


class Candidate(NamedTuple):
    """A document that may be shown.

    Attributes:
        rank: the hash of its id.
        part: the part of the corpus that it is in.
        duplicate_of, keeper: id and place of the document that stands for it, where it is a duplicate.
    """

    rank: int
    id: str
    part: int
    duplicate_of: str | None = None
    keeper: int | None = None


Candidates = dict[str, list[Candidate]]
"""Reason -> at most SAMPLES, by rank; at most MOST_REASONS reasons."""


def choose(rows: Iterable[Mapping[str, Any]], part: int) -> Candidates:
    """The candidates of a part.

    Args:
        rows: its dropped documents: ``id``, ``drop_reason``, and for duplicates ``duplicate_of`` and ``keeper``.
    """
    found: Candidates = {}
    for row in rows:
        name = str(row["id"])
        rank = xxhash.xxh64_intdigest(name.encode("utf-8"), _SEED)
        candidate = Candidate(rank, name, part, row.get("duplicate_of"), row.get("keeper"))
        found.setdefault(str(row["drop_reason"]), []).append(candidate)
    return _bounded({reason: _smallest(each) for reason, each in found.items()})


def merge(parts: Iterable[Candidates]) -> Candidates:
    """The candidates of all parts."""
    found: Candidates = {}
    for part in parts:
        for reason, candidates in part.items():
            found[reason] = _smallest([*found.get(reason, ()), *candidates])
    return _bounded(found)


def _bounded(found: Candidates) -> Candidates:
    return dict(sorted(found.items())[:MOST_REASONS])


def _smallest(candidates: list[Candidate]) -> list[Candidate]:
    return heapq.nsmallest(SAMPLES, candidates, key=lambda each: (each.rank, each.id, each.part))
