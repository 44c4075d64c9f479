"""Why a submitted job does not run, or did not end well: from what Kubernetes says of it, in words.

Pure: objects in, reasons out. Asked are the RayJob, Kueue's Workload of it, the pods of its cluster and its
submitter, and their events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from k8s.names import SUBMITTER_CONTAINER, Manifest

BAD_WAITS = {
    "ImagePullBackOff": "check the profile's `image`, `pull_secrets`, and that the nodes reach the registry",
    "ErrImagePull": "check the profile's `image`, `pull_secrets`, and that the nodes reach the registry",
    "InvalidImageName": "correct the profile's `image`",
    "ErrImageNeverPull": "the image is not on the node: load it there, or change `pull_policy`",
    "CreateContainerConfigError": "make the Secret or ConfigMap that it names",
    "CreateContainerError": "see the message",
    "RunContainerError": "see the message",
    "CrashLoopBackOff": "see the pod's log",
}
FAILED_EVENTS = (
    "FailedCreate",
    "FailedMount",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "FailedToCreate",
    "Invalid",
)
"""What warnings' reasons begin with: Kubernetes' own, and KubeRay's (FailedToCreateWorkerPod, InvalidRayJobSpec, …)."""
FAILURES = {
    "SubmissionFailed": "the submitter's log, below, says why",
    "DeadlineExceeded": "raise the profile's `jobs.deadline_seconds`, and submit again: it goes on where it was",
    "PreRunningDeadlineExceeded": "the reasons below kept it from starting; `jobs.start_seconds` is how long it waited",
    "AppFailed": "the job's last lines, below, say why; `raymill show` has the run's record",
    "JobStatusCheckTimeoutExceeded": "the head did not answer the operator: its pod's state is below",
    "ValidationFailed": "correct the profile",
}


@dataclass(frozen=True)
class Reason:
    """One reason, of which object, and what to do."""

    what: str
    next_step: str = ""


@dataclass(frozen=True)
class Seen:
    """What Kubernetes says of a job.

    Attributes:
        job: the RayJob.
        workload: Kueue's, if there is one.
        position: how many wait before it in its queue, if Kueue's visibility API says so.
        pods: of its cluster and of its submitter.
        events: of the RayJob, its cluster and these pods.
        missing: the shared cluster that it is for, where that is not there.
    """

    job: Manifest
    workload: Manifest | None = None
    position: int | None = None
    pods: Sequence[Manifest] = ()
    events: Sequence[Manifest] = ()
    missing: str = ""


def state(job: Manifest) -> str:
    """One word: QUEUED, PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    status = job.get("status", {})
    deployment, inside = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment in ("Complete", "Failed", "ValidationFailed"):
        return (
            "SUCCEEDED"
            if inside == "SUCCEEDED" and deployment == "Complete"
            else ("STOPPED" if inside == "STOPPED" else "FAILED")
        )
    if job.get("metadata", {}).get("deletionTimestamp"):
        return "STOPPED"  # it is there until KubeRay has told its cluster
    if job.get("spec", {}).get("suspend") or deployment in ("Suspended", "Suspending"):
        return "QUEUED"
    return "RUNNING" if inside == "RUNNING" else "PENDING"


def explain(seen: Seen) -> list[Reason]:
    """Every reason that is seen, the most telling first.

    A job runs as soon as its own process does, which needs the head alone: what keeps its workers away is told of a
    running job, too.
    """
    now = state(seen.job)
    if now == "SUCCEEDED":
        return [Reason("it succeeded")]
    if now == "RUNNING":
        lacking = list(dict.fromkeys(_away(seen)))
        return [Reason("it runs, and part of its cluster does not" if lacking else "it runs"), *lacking]
    found = [*_job(seen), *_queue(seen)] if now != "STOPPED" else [Reason("somebody stopped it")]
    if now != "QUEUED":
        found += [reason for pod in seen.pods for reason in _pod(pod)]
        found += _events(seen.events)
    if now == "PENDING" and not found:
        found.append(Reason("its cluster is starting", "repeat in a minute"))
    return list(dict.fromkeys(found))


def submitter_failed(seen: Seen) -> bool:
    """Whether a submitter ended badly, so that its log tells why; KubeRay tries a few more."""
    ended = [
        each.get(key, {}).get("terminated") or {}
        for pod in seen.pods
        for each in pod.get("status", {}).get("containerStatuses", [])
        if each["name"] == SUBMITTER_CONTAINER
        for key in ("state", "lastState")
    ]
    return any(each.get("exitCode") for each in ended)


def _away(seen: Seen) -> Iterator[Reason]:
    """What keeps pods of a running job away; warnings about pods that run by now are over."""
    away = [pod for pod in seen.pods if pod.get("status", {}).get("phase") not in ("Running", "Succeeded")]
    running = {pod["metadata"]["name"] for pod in seen.pods} - {pod["metadata"]["name"] for pod in away}
    for pod in away:
        yield from _pod(pod)
    yield from _events([event for event in seen.events if event.get("involvedObject", {}).get("name") not in running])


def _job(seen: Seen) -> Iterator[Reason]:
    status = seen.job.get("status", {})
    deployment = status.get("jobDeploymentStatus", "")
    if not deployment and not seen.job.get("spec", {}).get("suspend"):
        yield Reason(
            "KubeRay's operator has not looked at it", "check that the operator runs and watches this namespace"
        )
    if deployment in ("Failed", "ValidationFailed"):
        cause = status.get("reason") or deployment
        text = f"{cause}: {status['message']}" if status.get("message") else cause
        yield Reason(text, FAILURES.get(cause, ""))
    if seen.missing:
        yield Reason(
            f"RayCluster {seen.missing}, which it is for, is not there", "have `raymill manifests PROFILE` applied"
        )
    tries = status.get("failed", 0)
    if deployment == "Retrying":
        yield Reason(f"it failed {tries} time{'s' * (tries != 1)} and is tried again on a new cluster")
    if status.get("jobStatus") == "PENDING":
        yield Reason(
            "the job is at its cluster and waits for a place to run its driver",
            "the head must be up, and have what the entrypoint asks for",
        )


def _queue(seen: Seen) -> Iterator[Reason]:
    labels = seen.job.get("metadata", {}).get("labels", {})
    queue = labels.get("kueue.x-k8s.io/queue-name")
    if state(seen.job) != "QUEUED" or not queue:
        return
    if seen.workload is None:
        yield Reason(
            f"it waits in queue {queue}, and Kueue has made no workload of it",
            "check that Kueue runs, manages RayJobs, and that the LocalQueue exists",
        )
        return
    conditions = {each["type"]: each for each in seen.workload.get("status", {}).get("conditions", [])}
    place = f", {seen.position} before it" if seen.position is not None else ""
    evicted, reserved = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True":
        yield Reason(f"it was sent back to the queue ({evicted.get('reason')}): {evicted.get('message', '')}")
    if reserved.get("status") != "True":
        message = reserved.get("message", "Kueue has not looked at it yet")
        step = "wait, ask for a larger quota, or for fewer or smaller pods (`replicas` of the profile's groups)"
        if "doesn't exist" in message or "inactive" in message:
            step = "have the queue made or opened: `queue` of the profile"
        yield Reason(f"it waits in queue {queue}{place}: {message}", step)
    elif conditions.get("Admitted", {}).get("status") != "True":
        checks = [
            f"{each.get('name')} ({each.get('state')}): {each.get('message', '')}".rstrip(": ")
            for each in seen.workload.get("status", {}).get("admissionChecks", [])
            if each.get("state") != "Ready"
        ]
        yield Reason(f"it has its quota, and waits for checks: {', '.join(checks) or 'none is named'}")


def _pod(pod: Manifest) -> Iterator[Reason]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Reason(f"pod {name} has no node: {condition.get('message', '')}", _for_scheduling(condition))
    if status.get("reason") == "Evicted":
        yield Reason(f"pod {name} was evicted: {status.get('message', '')}", "raise its memory or scratch space")
    for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        yield from _container(name, each)


def _container(pod: str, status: Manifest) -> Iterator[Reason]:
    waiting = status.get("state", {}).get("waiting", {})
    if waiting.get("reason") in BAD_WAITS:
        text = f"{waiting['reason']}: {waiting['message']}" if waiting.get("message") else waiting["reason"]
        yield Reason(f"pod {pod}, container {status['name']}: {text}", BAD_WAITS[waiting["reason"]])
    for ended in (status.get("state", {}).get("terminated"), status.get("lastState", {}).get("terminated")):
        if ended and ended.get("reason") == "OOMKilled":
            yield Reason(
                f"pod {pod}, container {status['name']} was killed for memory", "raise `memory_gib` of its group"
            )
        elif ended and ended.get("exitCode"):
            yield Reason(f"pod {pod}, container {status['name']} ended with {ended['exitCode']}", "see its log")


def _for_scheduling(condition: Manifest) -> str:
    message = condition.get("message", "")
    missing = sorted(set(re.findall(r"Insufficient ([\w./-]+)", message)))
    if missing:
        return f"missing: {', '.join(missing)}; add nodes, or make the group's pods smaller"
    if "taint" in message:
        return "give the group a toleration of the taint, or untaint the nodes"
    if "persistentvolumeclaim" in message:
        return "make the claim that the profile names"
    if "selector" in message or "affinity" in message:
        return "no node has the labels of the group's `node_selector`"
    return ""


def _events(events: Sequence[Manifest]) -> Iterator[Reason]:
    for event in events:
        if event.get("type") != "Warning":
            continue
        reason, text = event.get("reason", ""), event.get("message", "")
        about = event.get("involvedObject", {}).get("name") or event.get("regarding", {}).get("name", "")
        if "exceeded quota" in text:
            yield Reason(f"{about}: {text}", "ask for a larger ResourceQuota of the namespace, or for smaller pods")
        elif "violates PodSecurity" in text:
            yield Reason(f"{about}: {text}", "a setting of your own breaks the namespace's restricted pod security")
        elif reason.startswith(FAILED_EVENTS):
            yield Reason(f"{about}: {reason}: {text}")
