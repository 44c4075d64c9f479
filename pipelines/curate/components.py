"""Connected components of a graph in sorted edge files, by many workers: alternating large-star and small-star.

Kiveris et al. 2014, "Connected Components in MapReduce and Beyond" (SoCC): in a large-star every node joins its larger
neighbours to the smallest node next to it (or itself), in a small-star its smaller neighbours and itself. Both keep
the components; after O(log^2 n) of them, in practice a handful, each is a star around its smallest node.

A worker has a range of nodes and all edges that start there. What is found depends on the edges alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cluster.errors import InternalError
from cluster.store import Store
from pipelines.curate.groups import Extremes, drop_repeats
from pipelines.curate.places import to_places
from pipelines.curate.runs import RangePart, Records, Run, RunWriter, in_order, pairs, range_parts, read_twice

Mapper = Callable[[str, Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Runs a step's function over parts on workers: :meth:`pipelines.curate.finished.Finished.map`."""

MOST_ROUNDS = 100


@dataclass
class Stars:
    """What a range gave.

    Attributes:
        edges: the new edges (after a large-star from the larger node, after a small-star in both directions).
        labels: PAIR runs, place of a node -> the smallest node next to it or itself.
        unsettled: nodes that are neither the smallest of their star nor joined to that alone.
    """

    edges: list[Run] = field(default_factory=list)
    labels: list[Run] = field(default_factory=list)
    unsettled: int = 0


def find_components(
    edges: list[Run], *, store: Store, prefix: str, memory_bytes: int, map_parts: Mapper
) -> tuple[list[Run], int]:
    """Labels of all nodes that have an edge, and the rounds it took.

    Args:
        edges: PAIR runs with every edge in both directions.

    Returns:
        PAIR runs, place of a node -> the smallest node of its component.
    """

    def step(work: Callable[..., Stars], edges: list[Run], name: str) -> list[Stars]:
        call = partial(work, edges=edges, store=store, prefix=f"{prefix}/{name}", memory_bytes=memory_bytes)
        return list(map_parts(f"rounds/{name}", call, range_parts(edges, memory_bytes)))

    for number in range(MOST_ROUNDS):
        large = step(large_star, edges, f"{number:02d}-large")
        if not sum(each.unsettled for each in large):
            return in_order(each.labels for each in large), number + 1
        small = step(small_star, in_order(each.edges for each in large), f"{number:02d}-small")
        edges = in_order(each.edges for each in small)
    raise InternalError(
        f"duplicates were still being joined after {MOST_ROUNDS} rounds", where="curate.dedup", next_step="report it"
    )


def large_star(part: RangePart, *, edges: Sequence[Run], store: Store, prefix: str, memory_bytes: int) -> Stars:
    """Join each node's larger neighbours to the smallest of its neighbours and itself."""
    writer = RunWriter(store, f"{prefix}/edges/{part.number:05d}", memory_bytes, drop_repeats)
    labels = RunWriter(store, f"{prefix}/labels/{part.number:05d}", memory_bytes)
    read = read_twice(store, edges, part.keys, memory_bytes)
    nodes = Extremes(read())
    least = np.minimum(nodes.keys, nodes.least)
    labels.add(pairs(to_places(nodes.keys), least))
    for batch in read():
        larger = batch["value"] > batch["key"]
        writer.add(pairs(batch["value"][larger], least[nodes.index(batch["key"][larger])]))
    unsettled = int(((least < nodes.keys) & (nodes.most != nodes.least)).sum())
    return Stars(writer.close(), labels.close(), unsettled)


def small_star(part: RangePart, *, edges: Sequence[Run], store: Store, prefix: str, memory_bytes: int) -> Stars:
    """Join each node and its neighbours, which are smaller, to the smallest of them."""
    writer = RunWriter(store, f"{prefix}/edges/{part.number:05d}", memory_bytes, drop_repeats)
    read = read_twice(store, edges, part.keys, memory_bytes)
    nodes = Extremes(read())
    _add_both(writer, pairs(nodes.keys, nodes.least))
    for batch in read():
        least = nodes.least[nodes.index(batch["key"])]
        other = batch["value"] != least
        _add_both(writer, pairs(batch["value"][other], least[other]))
    return Stars(writer.close())


def _add_both(writer: RunWriter, edges: Records) -> None:
    writer.add(edges)
    writer.add(pairs(edges["value"], edges["key"]))
