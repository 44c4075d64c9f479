"""Step metrics on their way from the first worker to the driver and into the artifact: JSON lines in the store.

Ray Train's ``report`` is a barrier of all workers and costs seconds; a line in a file costs nothing. Lines are
written in segments. A run that starts again from a checkpoint begins a new segment with a ``start`` record, which
takes back what earlier segments say of later steps.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from typing import IO, Any

from cluster.errors import InfraError
from cluster.store import Store

Record = dict[str, Any]

SEGMENT_RECORDS = 1000
REMOTE_INTERVAL_S = 5.0


class Journal:
    """Writes records. In a local store every line is there at once; elsewhere a segment is put every few seconds.

    Args:
        prefix: the folder of the segments.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._number = len(_segments(store, prefix))
        self._lines: list[str] = []
        self._file: IO[str] | None = None
        self._put_at = time.monotonic()
        self._behind = False  # whether lines are missing in the store

    def write(self, record: Record) -> None:
        """Add a record; it has at least ``kind`` and ``step``. A store that fails now gets it later."""
        self._lines.append(json.dumps(record))
        if self._behind or self._store.local_path(self._key()) is None:
            if time.monotonic() - self._put_at >= REMOTE_INTERVAL_S:
                self.flush()
        else:
            self._try(self._append)
        if len(self._lines) >= SEGMENT_RECORDS and not self._behind:
            self.close()
            self._number += 1

    def flush(self) -> None:
        """Make everything written visible to readers, or keep it where the store fails."""
        if self._lines and self._file is None:
            self._try(self._put)

    def close(self) -> None:
        """Flush and end the segment.

        Raises:
            OSError, InfraError: the store fails; nothing is lost, and this may be tried again.
        """
        if self._lines and self._file is None:
            self._put()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lines = []

    def _append(self) -> None:
        local = self._store.local_path(self._key())
        assert local is not None
        if self._file is None:
            local.parent.mkdir(parents=True, exist_ok=True)
            self._file = local.open("a", encoding="utf-8")
        self._file.write(self._lines[-1] + "\n")
        self._file.flush()

    def _put(self) -> None:
        """Write the whole segment at once."""
        self._put_at = time.monotonic()
        self._store.write(self._key(), ("\n".join(self._lines) + "\n").encode())
        self._behind = False

    def _try(self, action: Callable[[], None]) -> None:
        """A full disk or a server that refuses must not end training: the segment is written whole when it can be."""
        try:
            action()
        except (OSError, InfraError):
            self._behind, self._put_at = True, time.monotonic()
            self._drop_file()

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what it could not write is in memory
                file.close()

    def _key(self) -> str:
        return f"{self._prefix}/{self._number:06d}.jsonl"


class Follower:
    """Reads a journal while it is written. What it read once it neither parses nor sorts out again."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._forget()

    def poll(self) -> list[Record]:
        """Every record that holds, in the order of steps."""
        self._update()
        return list(self._held)

    def written(self) -> list[Record]:
        """Every record in the order written, also those that later ones took back."""
        self._update()
        return list(self._written)

    def _forget(self) -> None:
        self._sizes: dict[str, int] = {}
        self._taken: dict[str, int] = {}  # bytes of whole lines
        self._written: list[Record] = []
        self._held: list[Record] = []

    def _update(self) -> None:
        segments = sorted(_segments(self._store, self._prefix), key=lambda item: item.key)
        last = max(self._sizes, default="")
        changed = [item for item in segments if self._sizes.get(item.key) != item.size_bytes]
        if any(item.key < last or item.size_bytes < self._sizes.get(item.key, 0) for item in changed):
            self._forget()  # a worker that was given up wrote on, say: its lines belong before those of the next one
            changed = segments
        for item in changed:
            data = self._store.read(item.key)
            whole = data.rfind(b"\n") + 1  # a last line that is still being written has no line end yet
            for record in _parse(data[self._taken.get(item.key, 0) : whole]):
                self._written.append(record)
                self._held = _settled(self._held, record)
            self._sizes[item.key], self._taken[item.key] = item.size_bytes, whole


def settle(records: Iterable[Record]) -> list[Record]:
    """Records in the order written, without what a later ``start`` or ``rollback`` took back.

    After a rollback notes and events stay: they tell why. They then belong to the step that the run went back to.
    """
    held: list[Record] = []
    for record in records:
        held = _settled(held, record)
    return held


def _settled(held: list[Record], record: Record) -> list[Record]:
    """The list with one more record; it is the same list where nothing is taken back."""
    step = record["step"]
    if record["kind"] == "rollback":
        told = [each for each in held if each["step"] <= step or each["kind"] in ("note", "event")]
        held = [{**each, "step": min(each["step"], step)} for each in told]
    elif record["kind"] == "start":
        held = [each for each in held if each["step"] <= step]
    held.append(record)
    return held


def carry_over(store: Store, source: str, target: str) -> None:
    """Copy a journal's segments, for a run that continues another."""
    for item in _segments(store, source):
        store.write(f"{target}/{item.key.rpartition('/')[2]}", store.read(item.key))


def _segments(store: Store, prefix: str) -> list[Any]:
    return [item for item in store.files(f"{prefix}/") if item.key.endswith(".jsonl")]


def _parse(lines: bytes) -> list[Record]:
    return [json.loads(line) for line in lines.decode("utf-8").split("\n") if line]
