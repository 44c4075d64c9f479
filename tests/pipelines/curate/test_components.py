"""Sorted files as a shuffle, and components found by workers of which none has the whole graph."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InternalError
from cluster.store import Store
from cluster.store_local import LocalStore
from pipelines.curate import components
from pipelines.curate.components import find_components
from pipelines.curate.groups import Extremes
from pipelines.curate.match import contract
from pipelines.curate.places import line_of, part_of, part_range, places, row_of, to_nodes, to_places
from pipelines.curate.runs import (
    PAIR,
    STRIDE,
    KeyRange,
    Records,
    Run,
    RunWriter,
    pairs,
    range_parts,
    read_batches,
    read_range,
    read_twice,
    write_run,
)

KEYS = st.integers(0, 2**64 - 1)


def numbers(*values: int) -> Any:
    return np.array(values, np.uint64)


@settings(max_examples=40, deadline=None)
@given(st.lists(KEYS, max_size=20), KEYS, KEYS, st.integers(0, 3))
def test_a_range_of_a_run_is_what_a_filter_gives(keys: list[int], one: int, other: int, copies: int) -> None:
    keys = keys * (1 + copies * STRIDE // 10)  # some runs longer than the index's stride, with equal keys across it
    first, last = sorted((one, other))
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        run = write_run(store, "run", pairs(numbers(*keys), numbers(*range(len(keys)))))
        found = read_range(store, run, KeyRange(first, last))
    expected = sorted((key, value) for value, key in enumerate(keys) if first <= key <= last)
    assert sorted(map(tuple, found.tolist())) == expected


def test_ranges_cover_every_key_once_and_follow_the_size(store: Store) -> None:
    run = Run("x", 1000, tuple((name, PAIR[name].str) for name in PAIR.names or ()))
    assert run.bytes == 16_000
    parts = range_parts([run], 3000)
    assert len(parts) == 6
    assert parts[0].keys.first == 0
    assert parts[-1].keys.last == 2**64 - 1
    assert all(one.keys.last + 1 == other.keys.first for one, other in pairwise(parts))
    assert len(range_parts([], 3000)) == 1


def test_writers_hold_no_more_than_they_may(store: Store) -> None:
    writer = RunWriter(store, "out", 16 * 100)
    for start in range(0, 1000, 70):
        writer.add(
            pairs(np.arange(start, min(start + 70, 1000), dtype=np.uint64), numbers(1).repeat(min(70, 1000 - start)))
        )
    runs = writer.close()
    assert [run.key for run in runs] == [f"out-{i:04d}" for i in range(len(runs))]
    assert max(run.records for run in runs) < 200
    batches = list(read_batches(store, runs, KeyRange(), 16 * 300))
    assert sorted(np.concatenate(batches)["key"].tolist()) == list(range(1000))
    assert max(map(len, batches)) < 500


def test_what_is_larger_than_memory_can_be_read_twice(store: Store) -> None:
    runs = [write_run(store, f"r{i}", pairs(numbers(i, i + 10), numbers(0, 0))) for i in range(6)]
    for memory in (16, 1 << 20):
        read = read_twice(store, runs, KeyRange(), memory)
        assert [batch["key"].tolist() for batch in read()] == [batch["key"].tolist() for batch in read()]
        assert sum(map(len, read())) == 12


def test_ranges_are_read_from_every_kind_of_store(any_store: Store) -> None:
    run = write_run(any_store, "folder/run", pairs(np.arange(5000, dtype=np.uint64), numbers(1).repeat(5000)))
    assert read_range(any_store, run, KeyRange(2040, 2055))["key"].tolist() == list(range(2040, 2056))
    assert join(any_store, [(5, 3), (3, 9), (7, 8)], 1 << 20)[0] == {3: 3, 5: 3, 9: 3, 7: 7, 8: 7}


def test_places_and_nodes_lead_back() -> None:
    place = places(7, numbers(0, 5, (1 << 24) - 1), numbers(3, 0, (1 << 20) - 1))
    assert part_of(place).tolist() == [7, 7, 7]
    assert row_of(place).tolist() == [0, 5, (1 << 24) - 1]
    assert line_of(place).tolist() == [3, 0, (1 << 20) - 1]
    assert to_places(to_nodes(place)).tolist() == place.tolist()
    keys = part_range(7)
    assert all(keys.first <= each <= keys.last for each in place.tolist())
    with pytest.raises(InternalError, match="no number"):
        places(1 << 20, numbers(0))


def both(edges: Sequence[tuple[int, int]]) -> Records:
    ones, others = numbers(*(a for a, _ in edges)), numbers(*(b for _, b in edges))
    return np.concatenate([pairs(ones, others), pairs(others, ones)])


def join(store: Store, edges: Sequence[tuple[int, int]], memory: int, in_run: int = 5) -> tuple[dict[int, int], int]:
    """Node -> the smallest of its component as the workers find it, in any order of work; and the rounds."""

    def shuffled(step: str, function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        return map(function, random.Random(len(parts)).sample(list(parts), len(parts)))

    runs = [write_run(store, f"edges-{at:05d}", both(edges[at : at + in_run])) for at in range(0, len(edges), in_run)]
    labels, rounds = find_components(runs, store=store, prefix="c", memory_bytes=memory, map_parts=shuffled)
    found = np.concatenate([read_range(store, run, KeyRange()) for run in labels])
    nodes = to_nodes(found["key"]).tolist()
    assert len(set(nodes)) == len(nodes)
    return dict(zip(nodes, found["value"].tolist(), strict=True)), rounds


def brute_force(edges: Sequence[tuple[int, int]]) -> dict[int, int]:
    label = {node: node for edge in edges for node in edge}
    for _ in label:  # label propagation until nothing can change
        for one, other in edges:
            label[one] = label[other] = min(label[one], label[other])
    return label


EDGES = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(lambda edge: edge[0] != edge[1]), min_size=1, max_size=40
)


@settings(max_examples=20, deadline=None)
@given(EDGES, st.sampled_from([64, 300, 1 << 20]), st.integers(1, 12))
def test_components_against_brute_force(edges: list[tuple[int, int]], memory: int, in_run: int) -> None:
    spread = [(one << 58 | one, other << 58 | other) for one, other in edges]  # over all ranges
    with tempfile.TemporaryDirectory() as folder:
        assert join(LocalStore(Path(folder)), spread, memory, in_run)[0] == brute_force(spread)


@settings(deadline=None)
@given(EDGES)
def test_contraction_keeps_components_as_stars(edges: list[tuple[int, int]]) -> None:
    made = contract(both(edges)).tolist()
    assert brute_force([(int(a), int(b)) for a, b in made]) == brute_force(edges)
    assert all(brute_force(edges)[int(max(edge))] == min(edge) for edge in made)


def test_a_chain_across_many_parts_is_one_component(store: Store) -> None:
    nodes = to_nodes(np.arange(300, dtype=np.uint64)).tolist()
    label, rounds = join(store, list(pairwise(nodes)), memory=1000, in_run=3)
    assert set(label.values()) == {min(nodes)}
    assert len(label) == 300
    assert 2 <= rounds <= 12  # not one for each link


def test_a_star_of_100_000_in_bounded_memory(store: Store) -> None:
    """Ranges hold 64 kB; the star's centre alone has 1.6 MB of edges, and what holds them all needs ten times that."""
    nodes = to_nodes(np.arange(100_000, dtype=np.uint64))
    centre = np.sort(nodes)[50_000]
    leaves = nodes[nodes != centre]
    runs = []
    for at in range(0, len(leaves), 2000):
        some = leaves[at : at + 2000]
        middle = np.full(len(some), centre)
        runs.append(write_run(store, f"e{at:06d}", np.concatenate([pairs(some, middle), pairs(middle, some)])))
    peaks = []

    def measured(step: str, function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        for part in parts:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = function(part)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            yield result

    tracemalloc.start()
    labels, _ = find_components(runs, store=store, prefix="c", memory_bytes=64 << 10, map_parts=measured)
    tracemalloc.stop()
    smallest = int(nodes.min())
    for run in labels:
        assert set(read_range(store, run, KeyRange())["value"].tolist()) == {smallest}
    assert sum(run.records for run in labels) == 100_000
    assert sorted(peaks)[-5] < 1_200_000, sorted(peaks)[-8:]  # a few also meet what Python loads and grows once


def test_rounds_that_never_end_are_a_defect(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "MOST_ROUNDS", 1)
    with pytest.raises(InternalError, match="after 1 rounds"):
        join(store, [(3, 1), (1, 2), (2, 5)], 1 << 20)


def test_extremes_over_batches() -> None:
    batches = [pairs(numbers(3, 1, 3), numbers(5, 9, 2)), pairs(numbers(1, 2), numbers(4, 7))]
    found = Extremes(batches)
    assert found.keys.tolist() == [1, 2, 3]
    assert found.least.tolist() == [4, 7, 2]
    assert found.most.tolist() == [9, 7, 5]
    assert found.count.tolist() == [2, 1, 2]
    assert found.index(numbers(3, 1)).tolist() == [2, 0]
