"""`raymill submit`: plan, confirm, apply; follow to the end, whatever dies on the way."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping

from cluster.dashboard import normalise, others_may_read, token_file
from cluster.errors import InfraError, UserError
from cluster.jobs import INFRASTRUCTURE_CODES
from cluster.jobs_api import JobDetails, JobsClient, request_of, variables_of
from cluster.local_cluster import find_cluster
from pipelines.commands.following import detachable, follow_job
from pipelines.commands.options import names_profile
from pipelines.submission import SubmissionPlan, plan_submission


def submit(arguments: Namespace) -> int:
    """Submit a recipe, or attach to the run of it that is there.

    With ``--follow`` the exit code is the job's; Ctrl-C detaches (130) and leaves the job alone.
    """
    if names_profile(arguments):
        from pipelines.commands import kubernetes

        return kubernetes.submit(arguments)
    address = normalise(arguments.address or find_cluster(None).dashboard)
    plan = plan_submission(arguments)
    if arguments.dry_run:
        _show(arguments, plan, address)
        return 0
    client = JobsClient.open(address)
    plan.notes += _notes(client)
    print(plan.render(client.address), file=sys.stderr)
    confirm(arguments, plan)
    job, new = client.submit(plan.submission)
    _say(f"{'submitted' if new else 'attached to'} {job.id} ({job.status})")
    if not job.over:
        say_differing(plan, job.environment)
    if arguments.follow:
        job = _follow(client, plan, job, arguments.retries)
    if arguments.json:
        done = {"run": plan.submission.id, "job": job.id, "new": new, "status": job.status, "address": client.address}
        print(json.dumps(done | {"exit_code": job.code if job.over else None}, indent=1))
    elif not arguments.follow:
        print(f"follow it: raymill jobs logs {job.id} --follow --address {client.address}")
    if arguments.follow:
        return job.code
    return 0


def _show(arguments: Namespace, plan: SubmissionPlan, address: str) -> None:
    request = request_of(plan.submission, plan.submission.id)
    if arguments.json:
        print(json.dumps(plan.as_dict() | {"request": request}, indent=1))
    else:
        print(plan.render(address))
        print(f"\nPOST {address}/api/jobs/\n{json.dumps(request, indent=1)}")


def say_differing(plan: SubmissionPlan, found: Mapping[str, str]) -> None:
    """Say which variables a job that was found has otherwise than this submission of the same id wants them.

    They are no part of the id, so that no second job makes the same things beside the first.
    """
    wanted = variables_of(plan.submission)
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if names:
        _say(
            f"note: it runs with other variables than asked for now: {', '.join(names)}; to change them, stop it first"
        )


def _notes(client: JobsClient) -> list[str]:
    from importlib.metadata import version

    notes = []
    theirs, ours = client.version(), version("ray")
    if theirs != ours:
        notes.append(f"the cluster has Ray {theirs}, this machine {ours}; the job runs with the cluster's")
    if client.sends_token_in_the_clear:
        notes.append("the token travels unencrypted: use https, or a tunnel (kubectl port-forward, ssh -L)")
    file = token_file(client.address)
    if file is not None and others_may_read(file):
        notes.append(f"others on this machine may read the token: chmod 600 {file}")
    return notes


def confirm(arguments: Namespace, plan: SubmissionPlan) -> None:
    """Ask, where somebody is there to answer; raises UserError for no."""
    if arguments.yes or not sys.stdin.isatty():
        return
    print("submit it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("not submitted", where=plan.submission.id, next_step="answer y, or give --yes")


def _follow(client: JobsClient, plan: SubmissionPlan, job: JobDetails, retries: int) -> JobDetails:
    """Follow a job to its end; where the infrastructure ended it, start its next attempt, so many times."""
    with detachable(job.id, f"--address {client.address}"):
        while True:
            job = follow_job(client, job, plan.submission.store)
            infrastructure = job.status == "FAILED" and (job.exit_code is None or job.code in INFRASTRUCTURE_CODES)
            if not infrastructure or not retries:
                return job
            retries -= 1
            _say(f"{job.id} failed ({job.message.splitlines()[0] if job.message else job.code}); trying again")
            again, new = client.submit(plan.submission)
            if again.id == job.id:
                raise InfraError("the next attempt did not start", where=job.id, next_step="submit again")
            _say(f"{'submitted' if new else 'attached to'} {again.id}; it continues from what is published")
            job = again


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
