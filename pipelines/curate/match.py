"""Which documents are duplicates of which: pairs of equal words (exact) and pairs that share a band (near).

One worker has one key range of all signature files, with both kinds of keys, and writes edges of a graph on documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cluster.store import Store
from pipelines.curate.compiled import compiled
from pipelines.curate.groups import Extremes, Winners
from pipelines.curate.minhash import U64
from pipelines.curate.places import part_of, to_nodes, to_places
from pipelines.curate.runs import RangePart, Records, Run, RunWriter, pairs, read_twice

MARK = np.dtype([("key", "<u8")])
"""A place that is marked as an exact duplicate."""


@dataclass
class Matched:
    """What a range gave: edges in both directions, by node, and places of exact duplicates."""

    edges: list[Run] = field(default_factory=list)
    marks: list[Run] = field(default_factory=list)


def match_range(
    part: RangePart,
    *,
    exact: Sequence[Run],
    bands: Sequence[Run],
    first_earlier: int,
    store: Store,
    prefix: str,
    memory_bytes: int,
) -> Matched:
    """Find the edges of one range; they join each group as a star, and each file's components as stars.

    Args:
        exact: runs of :func:`ranked_type` by content hash.
        bands: runs of PAIR, band key -> node.
        first_earlier: parts from this number on belong to corpora curated earlier, whose documents are never dropped.
    """
    edges = RunWriter(store, f"{prefix}/edges/{part.number:05d}", memory_bytes, contract)
    marks = RunWriter(store, f"{prefix}/exact/{part.number:05d}", memory_bytes)
    for some in _exact(read_twice(store, exact, part.keys, memory_bytes), marks, first_earlier):
        edges.add(some)
    for some in _near(read_twice(store, bands, part.keys, memory_bytes), first_earlier):
        edges.add(some)
    return Matched(edges.close(), marks.close())


def _exact(read: Callable[[], Iterator[Records]], marks: RunWriter, first_earlier: int) -> Iterator[Records]:
    groups = Winners(read(), lambda batch: _is_new(batch["place"], first_earlier))
    for batch in read():
        at = groups.index(batch)
        best = groups.places[at]
        loses = (batch["place"] != best) & (groups.count[at] > 0)
        marks.add(batch["place"][loses].astype(MARK))
        yield pairs(to_nodes(batch["place"][loses]), to_nodes(best[loses]))


def _near(read: Callable[[], Iterator[Records]], first_earlier: int) -> Iterator[Records]:
    groups = Extremes(read(), lambda batch: _is_new(to_places(batch["value"]), first_earlier))
    for batch in read():
        at = groups.index(batch["key"])
        joins = (batch["value"] != groups.least[at]) & (groups.count[at] > 0)
        yield pairs(batch["value"][joins], groups.least[at][joins])


def _is_new(place: U64, first_earlier: int) -> npt.NDArray[np.int64]:
    return (part_of(place) < np.uint64(first_earlier)).astype(np.int64)


def contract(edges: Records) -> Records:
    """The same components with fewer edges: each node joined to the smallest of its component, in both directions."""
    nodes, ends = np.unique(np.concatenate([edges["key"], edges["value"]]), return_inverse=True)
    roots = nodes[_smallest_in_component(len(nodes), ends[: len(edges)], ends[len(edges) :])]
    leaf = nodes != roots
    return np.concatenate([pairs(nodes[leaf], roots[leaf]), pairs(roots[leaf], nodes[leaf])])


@compiled
def _smallest_in_component(
    count: int, ones: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """For each of ``count`` nodes the smallest number in its component (union by smallest, paths halved)."""
    parent = np.arange(count)
    for edge in range(len(ones)):
        one, other = ones[edge], others[edge]
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        while parent[other] != other:
            parent[other] = parent[parent[other]]
            other = parent[other]
        parent[max(one, other)] = min(one, other)
    for node in range(count):
        parent[node] = parent[parent[node]]  # smaller nodes, so all parents, have their root already
    return parent
