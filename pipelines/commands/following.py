"""Following a job from the command line: its log on stderr, its end, and Ctrl-C that leaves it alone."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from cluster.errors import InfraError, RaymillError
from cluster.job_record import JobRecord, read_job, read_log
from cluster.jobs_api import JobDetails, JobsClient
from cluster.progress import duration
from cluster.store import open_store

STORE_POLL_SECONDS = 3.0
"""A job writes its log so often."""
STATUS_OF = {"succeeded": "SUCCEEDED", "failed": "FAILED", "stopped": "STOPPED", "running": "RUNNING"}


class _Detached(KeyboardInterrupt):
    """Ctrl-C while following."""


@contextmanager
def detachable(job_id: str, place: str) -> Iterator[None]:
    """While this lasts, Ctrl-C ends following only; exit code 130.

    Args:
        place: the option that names where the job is, for the command that follows it again.
    """

    def detach(number: int, frame: object) -> None:
        raise _Detached

    previous = signal.signal(signal.SIGINT, detach)
    try:
        yield
    except _Detached:
        again = f"raymill jobs logs {job_id} --follow {place}"
        print(f"\ndetached; {job_id} goes on: {again}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGINT, previous)


def follow_job(client: JobsClient, job: JobDetails, store: str) -> JobDetails:
    """Print what a job says until it is over; where its cluster goes away, its end is read from the store.

    Raises:
        InfraError: the cluster is gone and the store does not say how the job ended.
    """
    try:
        for text in client.follow(job.id, lambda notice: print(f"-- {notice}", file=sys.stderr, flush=True)):
            print(text, end="", file=sys.stderr, flush=True)
        return client.job(job.id) or _from_store(job, store)
    except InfraError as error:
        try:
            return _from_store(job, store)
        except (RaymillError, OSError):
            raise error from None


def _from_store(job: JobDetails, store: str) -> JobDetails:
    record = record_of(store, job.metadata.get("raymill_run", job.id))
    if record is None or record.submission != job.id or not record.over:
        raise InfraError(
            "the cluster does not answer, and the store does not say that the job is over",
            where=job.id,
            next_step="submit it again, to this cluster or another: it continues from what is published",
        )
    whole = f"raymill jobs logs {record.id} --store {store}"
    print(f"-- the cluster is gone, how it ended is from the store; the whole log: {whole}", file=sys.stderr)
    return replace(job, status=STATUS_OF[record.state], exit_code=record.exit_code, message=record.message)


def follow_stored(url: str, record: JobRecord) -> JobRecord:
    """Print what a run says, as far as it is in the store, until it is over; a newer attempt is followed on.

    Raises:
        InfraError: it gives no sign of life.
    """
    store = open_store(url)
    attempt, piece = record.attempt, 1
    while True:
        found = read_job(store, record.id) or record
        if found.attempt != attempt:
            print(f"-- attempt {found.attempt} has taken the run over", file=sys.stderr, flush=True)
            attempt, piece = found.attempt, 1
        text, piece = read_log(store, found.id, attempt, piece)
        print(text, end="", file=sys.stderr, flush=True)
        if found.over:
            return found
        if found.lost():
            silent = duration(time.time() - found.updated_s)
            raise InfraError(
                f"attempt {attempt} gave no sign of life for {silent}",
                where=found.id,
                next_step="submit it again: it continues from what is published",
            )
        time.sleep(STORE_POLL_SECONDS)


def code_of(record: JobRecord) -> int:
    """The exit code to give for a run that is over."""
    if record.exit_code is not None:
        return record.exit_code
    return {"succeeded": 0, "stopped": 130}.get(record.state, 3)


def record_of(store: str, run_id: str) -> JobRecord | None:
    """What the store knows of a run."""
    return read_job(open_store(store), run_id)


def log_of(store: str, record: JobRecord) -> str:
    """The log of a run's last attempt, from the store."""
    return read_log(open_store(store), record.id, record.attempt)[0]
