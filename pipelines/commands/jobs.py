"""`raymill jobs`: list, logs, stop, why; from the cluster while it is there, from the store afterwards."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from cluster.diagnosis import diagnose
from cluster.errors import InfraError, RaymillError, UserError
from cluster.job_record import JobRecord, list_jobs
from cluster.jobs_api import JobDetails, JobsClient
from cluster.local_cluster import find_cluster
from cluster.pending import explain_demands, explain_pending
from cluster.progress import duration, table
from cluster.store import open_store
from pipelines.commands.following import code_of, detachable, follow_job, follow_stored, log_of, record_of
from pipelines.commands.options import names_profile

STOP_SECONDS = 60.0
PENDING_SECONDS = 5.0


def show_list(arguments: Namespace) -> int:
    """Every job of a cluster, or every run of a store."""
    if on_kubernetes(arguments):
        from pipelines.commands import kubernetes

        return kubernetes.show_list(arguments)
    if arguments.store and not arguments.address:
        rows = [_stored_row(record) for record in list_jobs(open_store(arguments.store))]
    else:
        rows = [_row(job) for job in _client(arguments).jobs()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table(rows) if rows else "no jobs")
    return 0


def logs(arguments: Namespace) -> int:
    """What a job said; with ``--follow`` on to its end, and its exit code."""
    if on_kubernetes(arguments):
        from pipelines.commands import kubernetes

        return kubernetes.logs(arguments)
    if arguments.store and not arguments.address:
        record = _stored(arguments)
        if not arguments.follow:
            print(log_of(arguments.store, record), end="")
            return 0
        with detachable(record.id, f"--store {arguments.store}"):
            return code_of(follow_stored(arguments.store, record))
    client, job = _find(arguments)
    if not arguments.follow:
        print(_said(client, job, arguments.store), end="")
        return 0
    with detachable(job.id, f"--address {client.address}"):
        job = follow_job(client, job, arguments.store or job.metadata.get("raymill_store", ""))
    return job.code


def stop(arguments: Namespace) -> int:
    """End a job; what it has published stays, and submitting it again continues from there."""
    if on_kubernetes(arguments):
        from pipelines.commands import kubernetes

        return kubernetes.stop(arguments)
    client, job = _find(arguments)
    if job.over:
        print(f"{job.id} is over: {job.status}")
        return 0
    client.stop(job.id)
    deadline = time.monotonic() + STOP_SECONDS
    while not job.over and time.monotonic() < deadline:
        time.sleep(0.3)
        job = client.job(job.id) or job
        if job.status == "PENDING" and time.monotonic() > deadline - STOP_SECONDS + PENDING_SECONDS:
            # Ray keeps such a job PENDING; the wish waits for its process, which would end as soon as it starts.
            print(f"{job.id} waits for resources: it ends when it gets them, or gives up after 15 minutes")
            return 0
    if not job.over:
        raise InfraError(f"it still runs after {STOP_SECONDS:.0f} s", where=job.id, next_step="ask again")
    print(f"{job.id}: {job.status}")
    return 0


def why(arguments: Namespace) -> int:
    """Why a job waits or failed."""
    if on_kubernetes(arguments):
        from pipelines.commands import kubernetes

        return kubernetes.why(arguments)
    if arguments.store and not arguments.address:
        record = _stored(arguments)
        answer = _why_stored(arguments.store, record)
    else:
        client, job = _find(arguments)
        answer = _why(client, job, arguments.store)
    if arguments.json:
        print(json.dumps(answer, indent=1))
        return 0
    print(f"{answer['job']}: {answer['status']}")
    for reason in answer["reasons"]:
        print(f"  {reason}")
    if answer.get("stage"):
        print(f"last stage: {answer['stage']}")
    if answer.get("advice"):
        print(f"next: {answer['advice']}")
    for line in answer.get("lines", []):
        print(f"  | {line}")
    return 0


def on_kubernetes(arguments: Namespace) -> bool:
    """Whether a profile's place is asked.

    Raises:
        UserError: another place is named besides, or a profile is changed and none is named.
    """
    if not names_profile(arguments):
        return False
    for name in ("address", "store"):
        if other := getattr(arguments, name, None):
            raise UserError(
                "is another place than a profile", where=f"--{name} {other}", next_step="give one of the two"
            )
    return True


def _why(client: JobsClient, job: JobDetails, store: str | None) -> dict[str, Any]:
    if job.status == "PENDING":
        found = explain_pending(client, job)
        return {"job": job.id, "status": job.status, "reasons": found.reasons, "advice": found.advice}
    if job.status == "FAILED":
        try:
            log = _said(client, job, store)
        except InfraError:
            log = ""  # the cluster's own word has to do
        return _failure(job.id, job.status, log, job.exit_code, job.message)
    if job.status == "RUNNING":
        return {"job": job.id, "status": job.status, "reasons": ["it runs", *explain_demands(client)]}
    text = "it succeeded" if job.status == "SUCCEEDED" else "somebody stopped it"
    return {"job": job.id, "status": job.status, "reasons": [text]}


def _said(client: JobsClient, job: JobDetails, store: str | None) -> str:
    """A job's log from its cluster, or from the store where the node is gone that had it.

    Args:
        store: where to look instead of where the job says that it is.

    Raises:
        InfraError: neither gives it.
    """
    try:
        return client.logs(job.id)
    except InfraError as error:
        try:
            stored = _log_in_store(job, store or job.metadata.get("raymill_store", ""))
        except (RaymillError, OSError):
            stored = None
        if stored is None:
            raise error from None
        return stored


def _log_in_store(job: JobDetails, store: str) -> str | None:
    """A job's log as its store has it; None where that has another attempt's, or none."""
    record = record_of(store, job.metadata.get("raymill_run", job.id)) if store else None
    return log_of(store, record) if record is not None and record.submission == job.id else None


def _why_stored(store: str, record: JobRecord) -> dict[str, Any]:
    if record.state == "failed":
        return _failure(record.id, "FAILED", log_of(store, record), record.exit_code, record.message)
    if record.lost():
        silent = duration(time.time() - record.updated_s)
        found = _failure(record.id, "LOST", log_of(store, record), None, f"it gave no sign of life for {silent}")
        return found | {"advice": "submit it again: it continues from what is published"}
    return {"job": record.id, "status": record.state.upper(), "reasons": [record.message or f"stage {record.stage}"]}


def _failure(job: str, status: str, log: str, exit_code: int | None, message: str) -> dict[str, Any]:
    found = diagnose(log, exit_code, message)
    answer = {"job": job, "status": status, "reasons": [found.error], "stage": found.stage}
    return answer | {"advice": found.advice, "lines": list(found.lines), "exit_code": exit_code}


def _client(arguments: Namespace) -> JobsClient:
    return JobsClient.open(arguments.address or find_cluster(None).dashboard)


def _find(arguments: Namespace) -> tuple[JobsClient, JobDetails]:
    client = _client(arguments)
    jobs = client.jobs()
    name = arguments.job
    fits = (
        [job for job in jobs if job.id == name]
        or [job for job in jobs if job.metadata.get("raymill_run") == name]
        or [job for job in jobs if job.metadata.get("raymill_recipe") == name]
        or [job for job in jobs if job.id.startswith(name)]
    )
    if not fits:
        known = ", ".join(job.id for job in jobs[-5:])
        raise UserError(
            f"no such job: {name}",
            where=client.address,
            next_step=f"there are: {known}" if known else "none was submitted there yet",
        )
    return client, fits[-1]


def _stored(arguments: Namespace) -> JobRecord:
    exact = record_of(arguments.store, arguments.job)
    if exact is not None:
        return exact
    records = list_jobs(open_store(arguments.store))
    fits = [
        record
        for record in records
        if arguments.job in (record.recipe, record.submission) or record.id.startswith(arguments.job)
    ]
    if not fits:
        known = ", ".join(record.id for record in records[-5:])
        raise UserError(
            f"no such run: {arguments.job}",
            where=arguments.store,
            next_step=f"there are: {known}" if known else "the store has no run yet",
        )
    return fits[-1]


def _row(job: JobDetails) -> dict[str, Any]:
    end = job.finished_s or time.time()
    return {
        "job": job.id,
        "status": job.status,
        "time": duration(end - job.started_s) if job.started_s else "",
        "exit": "" if job.exit_code is None else str(job.exit_code),
        "recipe": job.metadata.get("raymill_recipe", ""),
        "store": job.metadata.get("raymill_store", ""),
    }


def _stored_row(record: JobRecord) -> dict[str, Any]:
    return {
        "job": record.id,
        "status": "LOST" if record.lost() else record.state.upper(),
        "attempt": record.attempt,
        "time": duration((record.finished_s or record.updated_s) - record.started_s),
        "exit": "" if record.exit_code is None else str(record.exit_code),
        "stage": record.stage,
        "host": record.host,
    }
