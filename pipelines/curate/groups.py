"""Groups of records with equal keys, judged in two passes so that a group may be larger than memory.

The first pass keeps a few numbers for each different key, the second gives every record those of its group. Memory
holds the different keys of one range and a batch of records, whatever the size of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from pipelines.curate.minhash import U64
from pipelines.curate.runs import Records


def ranked_type(id_bytes: int) -> np.dtype[np.void]:
    """A document (or a line) in a contest with others of equal ``key`` and ``check``.

    The greatest ``rank`` wins, of equal ones the smallest ``id``, of equal ones the smallest ``place``.
    """
    return np.dtype(
        [("key", "<u8"), ("check", "<u8"), ("rank", "<f8"), ("id", f"S{max(id_bytes, 1)}"), ("place", "<u8")]
    )


Counted = Callable[[Records], npt.NDArray[np.int64]]
"""How much each record counts in its group."""


def one_each(records: Records) -> npt.NDArray[np.int64]:
    """Every record counts."""
    return np.ones(len(records), np.int64)


class Extremes:
    """For each key of PAIR records the smallest and the greatest value, and a count; see the module's text.

    Attributes:
        keys: the different keys in order; ``least``, ``most`` and ``count`` belong to them.
    """

    def __init__(self, batches: Iterable[Records], counted: Counted = one_each) -> None:
        self.keys: U64 = np.empty(0, np.uint64)
        self.least: U64 = np.empty(0, np.uint64)
        self.most: U64 = np.empty(0, np.uint64)
        self.count: npt.NDArray[np.int64] = np.empty(0, np.int64)
        for batch in batches:
            self._add(batch["key"], batch["value"], batch["value"], counted(batch))

    def _add(self, keys: U64, least: U64, most: U64, count: npt.NDArray[np.int64]) -> None:
        keys = np.concatenate([self.keys, keys])
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        self.keys = keys[starts]
        self.least = np.minimum.reduceat(np.concatenate([self.least, least])[order], starts)
        self.most = np.maximum.reduceat(np.concatenate([self.most, most])[order], starts)
        self.count = np.add.reduceat(np.concatenate([self.count, count])[order], starts)

    def index(self, keys: U64) -> npt.NDArray[np.int64]:
        """Where each key, which must be there, stands in ``keys``."""
        return np.searchsorted(self.keys, keys)


class Winners:
    """The winner of each (key, check) among records of :func:`ranked_type`, and a count.

    Attributes:
        records: the winners, in the order of (key, check).
        count: what is counted of those who contend with each.
    """

    def __init__(self, batches: Iterable[Records], counted: Counted = one_each) -> None:
        self.records: Records | None = None
        self.count: npt.NDArray[np.int64] = np.empty(0, np.int64)
        for batch in batches:
            joined = batch if self.records is None else np.concatenate([self.records, batch])
            count = np.concatenate([self.count, counted(batch)])
            order = np.lexsort((joined["place"], joined["id"], -joined["rank"], joined["check"], joined["key"]))
            joined, count = joined[order], count[order]
            differs = (joined["key"][1:] != joined["key"][:-1]) | (joined["check"][1:] != joined["check"][:-1])
            starts = np.flatnonzero(np.concatenate([[True], differs]))
            self.records = joined[starts]
            self.count = np.add.reduceat(count, starts)

    @property
    def places(self) -> U64:
        """Of the winners."""
        return np.empty(0, np.uint64) if self.records is None else self.records["place"]

    def index(self, batch: Records) -> npt.NDArray[np.int64]:
        """Where the winner of each record's group stands in ``records``."""
        if self.records is None:
            return np.empty(0, np.int64)
        keys, checks = self.records["key"], self.records["check"]
        at = np.searchsorted(keys, batch["key"], "left")
        # Several checks under one key are as rare as colliding 64-bit hashes, so one step further is seldom needed.
        while (wrong := checks[at] != batch["check"]).any():
            at[wrong] += 1
        return at


def drop_repeats(records: Records) -> Records:
    """Pairs without those that are there twice."""
    ordered = records[np.lexsort((records["value"], records["key"]))]
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]
