"""What the store knows of a run that was submitted: one document that is status, record and fence at once.

Whoever runs it *takes* the document (``jobs/<id>/job.json``): a new holder, one attempt more. Every later write is
conditional on the bytes that this holder wrote last. So when an attempt that was thought dead comes back, its first
write fails and it ends: of two attempts only the newer writes. Logs lie beside it as numbered pieces, written once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import InfraError, UserError
from cluster.store import Store

JOBS = "jobs"
HOLDER, JOB, STORE = "RAYMILL_JOB_HOLDER", "RAYMILL_JOB", "RAYMILL_JOB_STORE"
"""Variables by which a job's supervisor tells the run below it whose it is."""
BEAT_SECONDS = 10.0
LOST_AFTER_SECONDS = 90.0
"""A running job that wrote nothing for so long is taken for dead by those who ask."""

State = Literal["running", "succeeded", "failed", "stopped"]


class EarlierAttempt(StrictModel):
    """How an attempt before this one ended."""

    attempt: int
    state: State
    message: str = ""
    exit_code: int | None = None
    started_s: float
    finished_s: float | None = None


class JobRecord(StrictModel):
    """One submitted run.

    Attributes:
        attempt: how many there were, this one included.
        holder: who may write.
        submission: the cluster's own name of the job that runs this attempt; empty where it has none.
        stage: the last stage that the run named.
        log_pieces: how many pieces of this attempt's log are in the store.
        run: the key of the run's record in the store, when it is written.
        updated_s: when it was written last, seconds since the epoch; also a sign of life.
    """

    id: str
    recipe: str
    attempt: int
    holder: str
    state: State = "running"
    submission: str = ""
    host: str = ""
    stage: str = ""
    message: str = ""
    exit_code: int | None = None
    log_pieces: int = 0
    run: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    started_s: float
    updated_s: float
    finished_s: float | None = None
    earlier: list[EarlierAttempt] = Field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing more will come of this attempt by itself."""
        return self.state != "running"

    def lost(self, now: float | None = None) -> bool:
        """Whether it should run and gives no sign of life."""
        return not self.over and (time.time() if now is None else now) - self.updated_s > LOST_AFTER_SECONDS


class FencedOff(InfraError):
    """Another attempt at the same run has taken over; this one must not write any more."""


def key_of(run_id: str, name: str = "job.json") -> str:
    """The store key of a run's document, or of a file beside it."""
    return f"{JOBS}/{run_id}/{name}"


def read_job(store: Store, run_id: str) -> JobRecord | None:
    """The record of a run; None where no attempt ever began."""
    data = _read(store, run_id)
    return None if data is None else _decode(store, run_id, data)


def list_jobs(store: Store) -> list[JobRecord]:
    """Every run that was ever begun in a store, newest last."""
    found = [read_job(store, name) for name in store.folders(JOBS)]
    return sorted((record for record in found if record is not None), key=lambda record: record.started_s)


class Holding:
    """The right to write a run's record; see the module's text.

    Attributes:
        record: as written last.
    """

    def __init__(self, store: Store, record: JobRecord, written: bytes) -> None:
        self.store = store
        self.record = record
        self._written = written

    @classmethod
    def take(cls, store: Store, run_id: str, recipe: str, **values: Any) -> Holding:
        """Begin an attempt; whoever held the run before is fenced off from now on.

        Args:
            values: further fields of the record.
        """
        while True:
            before = _read(store, run_id)
            last = None if before is None else _decode(store, run_id, before)
            now = time.time()
            record = JobRecord(
                id=run_id,
                recipe=recipe,
                attempt=1 if last is None else last.attempt + 1,
                holder=uuid.uuid4().hex,
                started_s=now,
                updated_s=now,
                earlier=[] if last is None else [*last.earlier, _ended(last, now)],
                **values,
            )
            data = _encode(record)
            key = key_of(run_id)
            if store.put_if_absent(key, data) if before is None else store.put_if_match(key, data, before):
                return cls(store, record, data)

    def write(self, **values: Any) -> JobRecord:
        """Change fields of the record.

        Raises:
            FencedOff: another attempt has taken the run.
            InfraError, OSError: the store does not answer; nothing is known, the next write tries again.
        """
        record = self.record.model_copy(update=values | {"updated_s": time.time()})
        data = _encode(record)
        if not self.store.put_if_match(key_of(record.id), data, self._written):
            now = _read(self.store, record.id)
            if now is None or _decode(self.store, record.id, now).holder != record.holder:
                raise _fenced_off(record.id)
            # Our own write arrived although its answer did not: go on from there.
            if now != data and not self.store.put_if_match(key_of(record.id), data, now):
                raise _fenced_off(record.id)
        self.record, self._written = record, data
        return record

    def environment(self) -> dict[str, str]:
        """What the run below needs to know; see :func:`guard_of`."""
        return {HOLDER: self.record.holder, JOB: self.record.id, STORE: self.store.url}


def guard_of(environment: Mapping[str, str], store: Store) -> Callable[[], None]:
    """A check to make right before publishing: it raises FencedOff where the run belongs to a newer attempt.

    Outside a submitted job it checks nothing.
    """
    holder, run_id = environment.get(HOLDER), environment.get(JOB)
    if not holder or not run_id or environment.get(STORE) != store.url:
        return lambda: None

    def check() -> None:
        record = read_job(store, run_id)
        if record is None or record.holder != holder:
            raise _fenced_off(run_id)

    return check


def write_log(store: Store, record: JobRecord, piece: int, text: str) -> None:
    """Put one piece (from 1) of an attempt's log; a piece that is there already stays as it is."""
    store.put_if_absent(_log_key(record.id, record.attempt, piece), text.encode("utf-8"))


def read_log(store: Store, run_id: str, attempt: int, first: int = 1) -> tuple[str, int]:
    """An attempt's log from a piece on, and the number of the piece after the last one."""
    texts = []
    while True:
        try:
            texts.append(store.read(_log_key(run_id, attempt, first)).decode("utf-8", errors="replace"))
        except FileNotFoundError:
            return "".join(texts), first
        first += 1


def _log_key(run_id: str, attempt: int, piece: int) -> str:
    return key_of(run_id, f"log-{attempt:03}/{piece:06}.txt")


def _read(store: Store, run_id: str) -> bytes | None:
    try:
        return store.read(key_of(run_id))
    except FileNotFoundError:
        return None


def _encode(record: JobRecord) -> bytes:
    return json.dumps(record.model_dump(mode="json"), indent=1).encode("utf-8")


def _decode(store: Store, run_id: str, data: bytes) -> JobRecord:
    try:
        return JobRecord.model_validate_json(data)
    except ValidationError as error:
        raise UserError(
            f"the record of this run is damaged, or of another version: {error.errors()[0]['msg']}",
            where=store.uri(key_of(run_id)),
            next_step="move it away; nothing but the list of jobs is lost",
        ) from None


def _ended(last: JobRecord, now: float) -> EarlierAttempt:
    cut_off = not last.over
    return EarlierAttempt(
        attempt=last.attempt,
        state="failed" if cut_off else last.state,
        message=f"ended without a word during {last.stage or 'its start'}" if cut_off else last.message,
        exit_code=last.exit_code,
        started_s=last.started_s,
        finished_s=last.finished_s if last.over else now,
    )


def _fenced_off(run_id: str) -> FencedOff:
    return FencedOff(
        "another attempt has taken this run; this one ends without writing",
        where=run_id,
        next_step=f"`raymill jobs list --store …` shows it; `raymill jobs logs {run_id} --follow` follows the other",
    )
