"""Groups of duplicates from hashes alone, the same for any order in which documents arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EXACT = "duplicate.exact"
NEAR = "duplicate.near"


@dataclass(frozen=True)
class Candidate:
    """What is known of a document when duplicates are decided.

    Attributes:
        length: of its text in characters.
        content: hash of its comparable words.
        bands: its band keys as bytes (8 for each band), or empty where it has none.
    """

    id: str
    length: int
    content: bytes
    bands: bytes


@dataclass(frozen=True)
class Duplicate:
    """Why a document goes and which kept document stands for it."""

    reason: str
    duplicate_of: str


def find_duplicates(candidates: Sequence[Candidate], *, exact: bool, near: bool) -> dict[str, Duplicate]:
    """The documents to drop, by id. Of each group the longest stays, of equally long ones the smallest id.

    Near-duplicates are the connected components of documents that share a band key. ``duplicate_of`` always names a
    document that is kept.
    """
    ordered = sorted(candidates, key=lambda each: (-each.length, each.id))  # the first of any group is its keeper
    reasons: dict[int, str] = {}
    keeper = list(range(len(ordered)))
    if exact:
        first: dict[bytes, int] = {}
        for index, each in enumerate(ordered):
            keeper[index] = first.setdefault(each.content, index)
            if keeper[index] != index:
                reasons[index] = EXACT
    if near:
        compared = [index for index, each in enumerate(ordered) if index not in reasons and each.bands]
        roots = connected(np.array([np.frombuffer(ordered[i].bands, np.uint64) for i in compared]), len(compared))
        for position, index in enumerate(compared):
            if roots[position] != position:
                keeper[index] = compared[roots[position]]
                reasons[index] = NEAR
    return {
        ordered[index].id: Duplicate(reason, ordered[keeper[keeper[index]]].id) for index, reason in reasons.items()
    }


def largest_clusters(duplicates: Mapping[str, Duplicate], count: int) -> dict[str, int]:
    """The kept documents that stand for most others, with how many: most first, then by id."""
    sizes = Counter(each.duplicate_of for each in duplicates.values())
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:count])


def connected(keys: npt.NDArray[np.uint64], count: int) -> list[int]:
    """For each row of ``keys`` (documents x bands) the smallest row number of its connected component.

    Rows are joined where they have an equal key in the same band.
    """
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for band in range(keys.shape[1] if count else 0):
        order = np.argsort(keys[:, band], kind="stable")
        column = keys[order, band]
        for position in np.flatnonzero(column[1:] == column[:-1]):
            one, other = root(int(order[position])), root(int(order[position + 1]))
            if one != other:
                parent[max(one, other)] = min(one, other)  # the smaller number is always the root
    return [root(node) for node in range(count)]
