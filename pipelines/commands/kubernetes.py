"""`raymill submit --kubernetes` and `raymill jobs … --kubernetes`: recipes as RayJobs."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import yaml

from cluster.checkup import Finding
from cluster.diagnosis import diagnose
from cluster.errors import InfraError, UserError
from cluster.jobs import attempt_id
from cluster.kubectl import Kubectl
from cluster.progress import table
from k8s import checkup, look
from k8s.cluster_profile import Profile, load_profile
from k8s.look import KubernetesJob
from k8s.names import SUBMITTER_CONTAINER
from k8s.rayjob import job_manifests
from k8s.render import to_yaml
from k8s.rules import require_valid
from k8s.why import explain, submitter_failed
from pipelines.commands.following import detachable
from pipelines.commands.submit import confirm, say_differing
from pipelines.submission import SubmissionPlan, left_behind, plan_submission

LOG_LINES = 5_000
POLL_SECONDS = 3.0
PATIENCE_SECONDS = 600.0
"""So long the API server may be away while a job is followed."""


def submit(arguments: Namespace) -> int:
    """Render, check, confirm, apply; or attach to the run that is there."""
    profile = _profile(arguments)
    plan = _plan(arguments, profile)
    if arguments.dry_run:
        manifests = job_manifests(profile, plan.submission)
        require_valid(manifests, profile.feature_gates, f"profile {arguments.kubernetes}")
        print(json.dumps(manifests, indent=1) if arguments.json else to_yaml(manifests), end="")
        for note in plan.notes:
            print(f"note: {note}", file=sys.stderr)
        return 0
    kubectl = look.kubectl_of(profile)
    print(plan.render(_where(profile)), file=sys.stderr)
    job, new = _begin(arguments, kubectl, profile, plan)
    if arguments.follow:
        job = _to_the_end(arguments, kubectl, profile, plan, job)
    if arguments.json:
        done = {"run": plan.submission.id, "job": job.name, "new": new, "status": job.status}
        print(json.dumps(done | {"exit_code": job.code if job.over else None}, indent=1))
    elif not arguments.follow:
        print(f"follow it: raymill jobs logs {job.name} --follow --kubernetes {arguments.kubernetes}")
    return job.code if arguments.follow else 0


def _begin(
    arguments: Namespace, kubectl: Kubectl, profile: Profile, plan: SubmissionPlan, *, again: bool = False
) -> tuple[KubernetesJob, bool]:
    """The job that is under way or has succeeded, else a new attempt; and whether it is new.

    Args:
        again: nobody is asked a second time.
    """
    number, known = _attempt(kubectl, plan.submission.id)
    job = known
    if job is None:
        manifests = job_manifests(profile, plan.submission, number)
        require_valid(manifests, profile.feature_gates, f"profile {arguments.kubernetes}")
        if profile.jobs.cluster == "shared" and not look.has_cluster(kubectl, profile.cluster):
            raise UserError(
                f"there is no RayCluster {profile.cluster}, and KubeRay would wait for it in silence",
                where=_where(profile),
                next_step=f"have `raymill manifests {arguments.kubernetes}` applied, or set `jobs.cluster: own`",
            )
        if not again:
            confirm(arguments, plan)
        kubectl.apply(to_yaml(manifests))
        job = look.job(kubectl, attempt_id(plan.submission.id, number))
    if job is None:
        raise InfraError("it was applied, and is not there", where=plan.submission.id, next_step="submit it again")
    print(f"{'attached to' if known else 'submitted'} {job.name} ({job.status})", file=sys.stderr, flush=True)
    if not job.over:
        say_differing(plan, _variables(job))
    return job, known is None


def _to_the_end(
    arguments: Namespace, kubectl: Kubectl, profile: Profile, plan: SubmissionPlan, job: KubernetesJob
) -> KubernetesJob:
    """Follow a job to its end.

    KubeRay tries a job with a cluster of its own again by itself, and never one on a shared cluster: where the
    infrastructure ended that, its next attempt is started here.
    """
    left = arguments.retries if profile.jobs.cluster == "shared" else 0
    while True:
        with detachable(job.name, f"--kubernetes {arguments.kubernetes}"):
            job = follow(kubectl, job)
        if not left or not job.may_succeed_again:
            return job
        left -= 1
        said = job.message.splitlines()[0] if job.message else job.code
        print(f"{job.name} failed ({said}); trying again", file=sys.stderr, flush=True)
        job, _ = _begin(arguments, kubectl, profile, plan, again=True)


def examine(arguments: Namespace) -> list[Finding]:
    """What a profile's place has and lacks, for `raymill doctor`."""
    profile = _profile(arguments)
    return list(checkup.examine(profile, look.kubectl_of(profile)))


def _profile(arguments: Namespace) -> Profile:
    return load_profile(arguments.kubernetes, getattr(arguments, "profile_overrides", ()), "--profile-set")


def _where(profile: Profile) -> str:
    return f"Kubernetes, {profile.context or 'current context'}, namespace {profile.namespace}"


def _plan(arguments: Namespace, profile: Profile) -> SubmissionPlan:
    if arguments.address:
        raise UserError(
            "is another place than a profile", where=f"--address {arguments.address}", next_step="give one of the two"
        )
    arguments.no_code = arguments.no_code or arguments.working_dir is None
    overrides = [] if arguments.store else [f"store={json.dumps(profile.store)}"]
    plan = plan_submission(
        arguments,
        image=profile.image,
        overrides=overrides,
        with_package=False,
        mounted=profile.claim is not None,
    )
    profile.with_store(plan.submission.store)
    plan.notes += left_behind(plan)
    if profile.queue and profile.jobs.cluster == "shared":
        plan.notes.append(
            f"it does not wait in queue {profile.queue.name}: that is for jobs with clusters of their own"
        )
    return plan


def _variables(job: KubernetesJob) -> dict[str, str]:
    """The variables that a job was given."""
    found = yaml.safe_load(job.manifest.get("spec", {}).get("runtimeEnvYAML", "")) or {}
    return dict(found.get("env_vars", {}))


def _attempt(kubectl: Kubectl, run_id: str) -> tuple[int, KubernetesJob | None]:
    """The number of the attempt to make, or the one that is under way or has succeeded."""
    found = look.attempts(kubectl, run_id)
    if not found:
        return 1, None
    last = max(found)
    if found[last].status in ("FAILED", "STOPPED"):
        return last + 1, None
    return last, found[last]


def follow(kubectl: Kubectl, job: KubernetesJob) -> KubernetesJob:
    """Show a job's log to its end; a lost connection is taken up where it broke.

    Raises:
        InfraError: the API server is away for ten minutes, or the job was deleted.
    """
    said, silent_since, last = "", 0.0, ""
    while True:
        try:
            found = look.job(kubectl, job.name)
            silent_since = 0.0
        except InfraError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)
            continue
        if found is None:
            raise InfraError(
                "it is not there any more", where=job.name, next_step="`raymill jobs why JOB --store …` says how it was"
            )
        if found.status != said:
            said = found.status
            print(f"-- {job.name}: {said}", file=sys.stderr, flush=True)
        for moment, text in _lines(kubectl, job.name, last):
            last = moment
            print(text, file=sys.stderr, flush=True)
        if found.over:
            return found
        time.sleep(POLL_SECONDS)


def _lines(kubectl: Kubectl, name: str, last: str) -> Iterator[tuple[str, str]]:
    """(time, line) of the submitter's log after a time, as long as the connection lasts."""
    for line in kubectl.follow(f"job-name={name}", container=SUBMITTER_CONTAINER, since=last):
        moment, _, text = line.partition(" ")
        if moment > last:
            yield moment, text


def show_list(arguments: Namespace) -> int:
    """Every job of ours in the profile's namespace."""
    rows = [
        {"job": job.name, "status": job.status, "started": job.started, "recipe": job.recipe, "store": job.store}
        for job in look.jobs(look.kubectl_of(_profile(arguments)))
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table(rows) if rows else "no jobs")
    return 0


def logs(arguments: Namespace) -> int:
    """What a job said; with ``--follow`` on to its end, and its exit code."""
    kubectl, job = _find(arguments)
    if not arguments.follow:
        said = look.submitter_log(kubectl, job.name, LOG_LINES)
        print(said, end="")
        if not said:
            again = f"raymill jobs why {job.name} --kubernetes {arguments.kubernetes}"
            print(f"no pod of it has said anything; `{again}` says why", file=sys.stderr)
        return 0
    with detachable(job.name, f"--kubernetes {arguments.kubernetes}"):
        return follow(kubectl, job).code


def stop(arguments: Namespace) -> int:
    """Delete a job, and with it its own cluster; what it has published stays."""
    kubectl, job = _find(arguments)
    kubectl.delete("rayjobs.ray.io", job.name)
    kubectl.delete("configmaps", f"{job.name}-recipe")
    print(f"{job.name}: stopped" if not job.over else f"{job.name} was over ({job.status}) and is removed")
    return 0


def why(arguments: Namespace) -> int:
    """Why a job waits or failed."""
    kubectl, job = _find(arguments)
    seen = look.see(kubectl, job)
    reasons = explain(seen)
    answer: dict[str, Any] = {
        "job": job.name,
        "status": job.status,
        "reasons": [{"what": each.what, "next": each.next_step} for each in reasons],
    }
    if job.status == "FAILED" or submitter_failed(seen):
        log = look.submitter_log(kubectl, job.name, LOG_LINES)
        answer |= diagnose(log, job.exit_code, job.message).as_dict() if log else {}
    if arguments.json:
        print(json.dumps(answer, indent=1))
        return 0
    print(f"{job.name}: {job.status}")
    for each in reasons:
        print(f"  {each.what}" + (f"\n    next: {each.next_step}" if each.next_step else ""))
    for key in ("stage", "error", "advice"):
        if answer.get(key):
            print(f"{key}: {answer[key]}")
    for line in answer.get("lines", []):
        print(f"  | {line}")
    return 0


def _find(arguments: Namespace) -> tuple[Kubectl, KubernetesJob]:
    kubectl = look.kubectl_of(_profile(arguments))
    found, name = look.jobs(kubectl), arguments.job
    fits = [job for job in found if name in (job.name, job.run, job.recipe)] or [
        job for job in found if job.name.startswith(name)
    ]
    if not fits:
        known = ", ".join(job.name for job in found[-5:]) or "none"
        raise UserError(
            f"no such job: {name}",
            where=f"namespace {kubectl.namespace}",
            next_step=f"the newest here: {known}; `--store` shows runs whose jobs are gone",
        )
    return kubectl, fits[-1]
