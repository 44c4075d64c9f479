"""What a rollout learned and decided, as files in the store that are only ever added.

``deployments/<name>/rollouts/<id>/events-00000001.json`` and so on: each holds some events and their checksum, and is
written only where no file is, so that two controllers never overwrite each other. Decisions are pure functions of
these events; nothing is acted on before its events are written.

Events are plain JSON objects with ``kind`` and ``at`` (seconds since the epoch):

- ``start``: the rollout's settings and what is known before it (once, first).
- ``state``: a state of the deployment that differs from the one before for the rollout.
- ``units``: units that were closed by then (none, where time alone made a decision), and requests left out.
- ``decision``: what was decided, to be compared with; replaying does not read it.
- ``waits``: no engine answers ``for`` this variant, which the step cannot go on without; empty: one does.
- ``away``: for so many ``seconds`` nobody observed: the endpoint was stopped, or the controller not there.
- ``end``: everything was done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import UserError
from cluster.store import Store

SCHEMA_VERSION = 2
"""Since 2, units count callers who gave up, and gaps and waits are events; files of 1 are read as well."""
BUSY_SECONDS = 1.0
"""Least time between two files while much is going on."""
QUIET_SECONDS = 10.0
"""Longest time that a closed unit waits to be written, unless something was decided."""
BUSY_UNITS = 200
"""Units that are worth a file of their own."""
HEARTBEAT_SECONDS = 300.0
"""Longest time without any event while a step runs, so that a later gap says how long nobody observed."""
READ_AT_ONCE = 8
"""Files that are read side by side, and kept."""
PENDING_UNITS = 100_000
"""Above so many unwritten units (the store is away) no more are closed."""

Event = dict[str, Any]


class Overtaken(Exception):
    """Another controller wrote the file that was next: what is in memory here is no longer the rollout's."""


@dataclass
class Recorded:
    """The files that were there, of which only a few are in memory at once.

    Attributes:
        store: holds them.
        keys: theirs, in order.
        damaged: keys of files whose bytes do not match their checksum, once :attr:`events` have been gone through; they
            are left out.
    """

    store: Store
    keys: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many there are, damaged ones included."""
        return len(self.keys)

    @property
    def events(self) -> Iterator[Event]:
        """In order, read anew each time.

        Raises:
            UserError: a newer Raymill wrote them.
        """
        self.damaged.clear()
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            for begin in range(0, len(self.keys), READ_AT_ONCE):
                keys = self.keys[begin : begin + READ_AT_ONCE]
                for key, data in zip(keys, pool.map(self.store.read, keys), strict=True):
                    events = decode(data, self.store.uri(key))
                    if events is None:
                        self.damaged.append(key)
                    else:
                        yield from events

    @property
    def decisions(self) -> list[Event]:
        """The decisions as they were made."""
        return [event["decision"] for event in self.events if event["kind"] == "decision"]


def rollouts_folder(deployment: str) -> str:
    """The key of the folder that holds a deployment's rollouts."""
    return f"deployments/{deployment}/rollouts"


def events_folder(deployment: str, rollout: str) -> str:
    """The key of the folder that holds one rollout's events."""
    return f"{rollouts_folder(deployment)}/{rollout}"


class EventLog:
    """The events of one rollout: read once, then added to.

    Args:
        store: holds the deployment.
        deployment: its name.
        rollout: the rollout's id.
    """

    def __init__(self, store: Store, deployment: str, rollout: str) -> None:
        self.store = store
        self.prefix = f"{events_folder(deployment, rollout)}/events-"
        self.pending: list[Event] = []
        self.pending_units = 0
        self._urgent = False
        self._next = 1
        self._written_at = float("-inf")
        self._waiting_since = float("inf")

    def read(self) -> Recorded:
        """Everything that was written; what was added here but not yet written is forgotten."""
        keys = [item.key for item in self.store.files(self.prefix) if item.key.endswith(".json")]
        self._next = 1 + max((int(key[len(self.prefix) : -len(".json")]) for key in keys), default=0)
        self._forget()
        return Recorded(self.store, keys)

    def add(self, event: Event) -> None:
        """Keep an event until the next write."""
        self.pending.append(event)
        self.pending_units += len(event.get("units", ()))
        self._urgent |= event["kind"] != "units"
        self._waiting_since = min(self._waiting_since, event["at"])

    def due(self, now: float) -> bool:
        """Whether what is kept should be written now: decisions at once, the rest as the module's rates say."""
        if not self.pending:
            return False
        if self._urgent or now - self._waiting_since >= QUIET_SECONDS:
            return True
        return self.pending_units >= BUSY_UNITS and now - self._written_at >= BUSY_SECONDS

    def write(self, now: float) -> None:
        """Write what is kept as one file.

        Raises:
            Overtaken: another writer took its place.
            OSError, RaymillError: the store cannot be written; everything is still kept.
        """
        key = f"{self.prefix}{self._next:08d}.json"
        data = encode(self.pending)
        if not self.store.put_if_absent(key, data) and self.store.read(key) != data:
            raise Overtaken(self.store.uri(key))
        self._next += 1
        self._written_at = now
        self._forget()

    def _forget(self) -> None:
        self.pending, self.pending_units, self._urgent = [], 0, False
        self._waiting_since = float("inf")


def encode(events: list[Event]) -> bytes:
    """The bytes of a file."""
    body = json.dumps(events, separators=(",", ":"), sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"schema_version":{SCHEMA_VERSION},"sha256":"{digest}","events":{body}}}\n'.encode()


def decode(data: bytes, where: str) -> list[Event] | None:
    """The events of a file; None where it is not whole.

    Raises:
        UserError: a newer Raymill wrote it.
    """
    try:
        content: Mapping[str, Any] = json.loads(data)
        schema, digest, events = content["schema_version"], content["sha256"], content["events"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        raise UserError(
            f"a newer Raymill wrote it (schema {schema}; this one reads up to {SCHEMA_VERSION})",
            where=where,
            next_step="use that release, also for the processes that serve",
        )
    body = json.dumps(events, separators=(",", ":"), sort_keys=True)
    return list(events) if hashlib.sha256(body.encode()).hexdigest() == digest else None
