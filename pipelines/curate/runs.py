"""Records of fixed width in sorted files, of which any key range can be read without the rest: a shuffle by files.

A worker writes its records in runs, each sorted by key and of bounded size; the worker that is to have a key range
reads that range out of every run. Names and bytes depend on the records alone, so work that is done again after a
death writes the same. A file holds an index, the key of every STRIDE-th record, and then the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from cluster.store import Store
from pipelines.curate.minhash import U64

Records = npt.NDArray[np.void]
"""A structured array whose field ``key`` (uint64) it is sorted and shuffled by."""

PAIR = np.dtype([("key", "<u8"), ("value", "<u8")])
STRIDE = 1024
LAST_KEY = (1 << 64) - 1


@dataclass(frozen=True)
class Run:
    """One sorted file.

    Attributes:
        records: how many it holds.
        fields: the records' type, as numpy describes it.
    """

    key: str
    records: int
    fields: tuple[tuple[str, str], ...]

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The records' type."""
        return np.dtype(list(self.fields))

    @property
    def bytes(self) -> int:
        """Size of the records."""
        return self.records * self.dtype.itemsize


@dataclass(frozen=True)
class KeyRange:
    """All keys from ``first`` to ``last``, both included."""

    first: int = 0
    last: int = LAST_KEY


@dataclass(frozen=True)
class RangePart:
    """One worker's share of hashed keys."""

    number: int
    keys: KeyRange


def range_parts(runs: Sequence[Run], memory_bytes: int) -> list[RangePart]:
    """Equal ranges of hashed keys, each with about ``memory_bytes`` of the records in these runs."""
    count = max(1, -(-sum(run.bytes for run in runs) // memory_bytes))
    edges = [(number << 64) // count for number in range(count + 1)]
    return [RangePart(i, KeyRange(edges[i], edges[i + 1] - 1)) for i in range(count)]


def write_run(store: Store, key: str, records: Records) -> Run:
    """Write records as one run."""
    records = records[np.argsort(records["key"], kind="stable")]
    store.write(key, records["key"][::STRIDE].tobytes() + records.tobytes())
    fields = tuple((name, records.dtype[name].str) for name in records.dtype.names or ())
    return Run(key, len(records), fields)


def read_range(store: Store, run: Run, keys: KeyRange) -> Records:
    """The records of a run whose keys are in the range, in key order."""
    system, path = store.arrow(run.key)
    entries = -(-run.records // STRIDE)
    with system.open_input_file(path) as file:
        index = np.frombuffer(file.read_at(8 * entries, 0), np.uint64)
        first = max(int(np.searchsorted(index, np.uint64(keys.first), "left")) - 1, 0) * STRIDE
        last = min(int(np.searchsorted(index, np.uint64(keys.last), "right")) * STRIDE, run.records)
        size = run.dtype.itemsize
        found = np.frombuffer(file.read_at(max(last - first, 0) * size, 8 * entries + first * size), run.dtype)
    low = np.searchsorted(found["key"], np.uint64(keys.first), "left")
    return found[low : np.searchsorted(found["key"], np.uint64(keys.last), "right")]


def read_batches(store: Store, runs: Sequence[Run], keys: KeyRange, memory_bytes: int) -> Iterator[Records]:
    """The records of a range from all runs, in batches of about ``memory_bytes`` (more by one run's share at most)."""
    held: list[Records] = []
    size = 0
    for run in runs:
        held.append(read_range(store, run, keys))
        size += held[-1].nbytes
        if size >= memory_bytes:
            yield np.concatenate(held)
            held, size = [], 0
    if size:
        yield np.concatenate(held)


def read_twice(store: Store, runs: Sequence[Run], keys: KeyRange, memory_bytes: int) -> Callable[[], Iterator[Records]]:
    """The batches of a range, as often as they are asked for: kept if there is one, otherwise read anew.

    A key that many records have makes its range larger than was planned; then memory stays what it was and time grows.
    """
    batches = read_batches(store, runs, keys, memory_bytes)
    start = [batch for _, batch in zip(range(2), batches, strict=False)]
    if len(start) < 2:
        return lambda: iter(start)
    unread: list[Iterator[Records]] = [chain(start, batches)]
    return lambda: unread.pop() if unread else read_batches(store, runs, keys, memory_bytes)


class RunWriter:
    """Collects records and writes them as runs of about ``memory_bytes``: ``<prefix>-0000``, ``<prefix>-0001``, ….

    Args:
        finish: applied to the records of each run before they are written.
    """

    def __init__(
        self, store: Store, prefix: str, memory_bytes: int, finish: Callable[[Records], Records] | None = None
    ) -> None:
        self._store, self._prefix, self._memory_bytes = store, prefix, memory_bytes
        self._finish = finish
        self._held: list[Records] = []
        self._size = 0
        self._runs: list[Run] = []

    def add(self, records: Records) -> None:
        """Take records, in any order."""
        for start in range(0, len(records), max(1, self._memory_bytes // records.dtype.itemsize)):
            some = records[start : start + max(1, self._memory_bytes // records.dtype.itemsize)]
            self._held.append(some)
            self._size += some.nbytes
            if self._size >= self._memory_bytes:
                self._flush()

    def close(self) -> list[Run]:
        """Write what is left; all runs."""
        self._flush()
        return self._runs

    def _flush(self) -> None:
        if self._held:
            records = np.concatenate(self._held)
            self._held, self._size = [], 0
            if self._finish is not None:
                records = self._finish(records)
            self._runs.append(write_run(self._store, f"{self._prefix}-{len(self._runs):04d}", records))


def in_order(lists: Iterable[Sequence[Run]]) -> list[Run]:
    """The runs of all workers, whoever was first."""
    return sorted((run for runs in lists for run in runs), key=lambda run: run.key)


def pairs(keys: U64, values: U64) -> Records:
    """Records of PAIR."""
    made = np.empty(len(keys), PAIR)
    made["key"], made["value"] = keys, values
    return made
