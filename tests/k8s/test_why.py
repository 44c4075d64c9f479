"""Why a job waits: statuses as KubeRay v1.7, Kueue and the kubelet write them, and what is made of them.

The texts of conditions are those of the components' sources: the scheduler's ``0/5 nodes are available``, Kueue's
``couldn't assign flavors to pod set``, the kubelet's ``Back-off pulling image``, KubeRay's ``JobFailedReason``.
"""

from __future__ import annotations

from typing import Any

import pytest

from k8s.why import Reason, Seen, explain, state

Manifest = dict[str, Any]
QUEUED = {"kueue.x-k8s.io/queue-name": "team"}


def job(deployment: str = "", inside: str = "", *, labels: Manifest | None = None, **status: Any) -> Manifest:
    told = {"jobDeploymentStatus": deployment, "jobStatus": inside, **status}
    return {
        "metadata": {"name": "raymill-x", "labels": labels or {}},
        "spec": {"suspend": bool(labels)},
        "status": {key: value for key, value in told.items() if value != ""},
    }


def workload(*conditions: tuple[str, str, str, str], **more: Any) -> Manifest:
    listed = [dict(zip(("type", "status", "reason", "message"), each, strict=True)) for each in conditions]
    return {"metadata": {"name": "w"}, "status": {"conditions": listed, **more}}


def pod(name: str = "raymill-x-head", **status: Any) -> Manifest:
    return {"metadata": {"name": name}, "status": status}


def unschedulable(message: str) -> Manifest:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[condition])


def waiting(reason: str, message: str = "", *, init: bool = False) -> Manifest:
    status = {"name": "ray", "state": {"waiting": {"reason": reason, "message": message}}}
    return pod(**{"initContainerStatuses" if init else "containerStatuses": [status]})


def event(reason: str, message: str, kind: str = "Warning") -> Manifest:
    return {"type": kind, "reason": reason, "message": message, "involvedObject": {"name": "raymill-x"}}


@pytest.mark.parametrize(
    ("manifest", "word"),
    [
        (job(), "PENDING"),
        (job(labels=QUEUED), "QUEUED"),
        (job("Suspended"), "QUEUED"),
        (job("Initializing"), "PENDING"),
        (job("Running", "PENDING"), "PENDING"),
        (job("Running", "RUNNING"), "RUNNING"),
        (job("Retrying", "FAILED"), "PENDING"),
        (job("Complete", "SUCCEEDED"), "SUCCEEDED"),
        (job("Complete", "STOPPED"), "STOPPED"),
        (job("Complete", "FAILED"), "FAILED"),
        (job("Failed", "RUNNING"), "FAILED"),
        (job("ValidationFailed"), "FAILED"),
    ],
)
def test_one_word_for_a_job(manifest: Manifest, word: str) -> None:
    assert state(manifest) == word


CASES: list[tuple[str, Seen, list[str]]] = [
    ("runs", Seen(job("Running", "RUNNING"), pods=[pod(phase="Running")]), ["it runs: "]),
    ("succeeded", Seen(job("Complete", "SUCCEEDED"), pods=[waiting("ImagePullBackOff")]), ["it succeeded: "]),
    (
        "runs without its GPUs",
        Seen(
            job("Running", "RUNNING"),
            pods=[pod(phase="Running"), unschedulable("0/5 nodes are available: 5 Insufficient nvidia.com/gpu.")],
            events=[event("FailedToCreateWorkerPod", 'pods "y" is forbidden: exceeded quota: team')],
        ),
        ["it runs, and part of its cluster does not", "missing: nvidia.com/gpu", "exceeded quota: team"],
    ),
    (
        "no pod by KubeRay",
        Seen(job("Initializing"), events=[event("FailedToCreateHeadPod", "admission webhook denied the request")]),
        ["raymill-x: FailedToCreateHeadPod: admission webhook denied"],
    ),
    (
        "refused by KubeRay",
        Seen(job("Initializing"), events=[event("InvalidRayJobSpec", "the RayJob spec is invalid")]),
        ["InvalidRayJobSpec: the RayJob spec is invalid"],
    ),
    ("operator", Seen(job()), ["KubeRay's operator has not looked at it", "watches this namespace"]),
    (
        "GPU",
        Seen(
            job("Initializing"),
            pods=[unschedulable("0/5 nodes are available: 2 Insufficient cpu, 5 Insufficient nvidia.com/gpu.")],
        ),
        ["has no node", "missing: cpu, nvidia.com/gpu"],
    ),
    (
        "taint",
        Seen(job("Initializing"), pods=[unschedulable("1 node(s) had untolerated taint {gpu: true}.")]),
        ["toleration"],
    ),
    (
        "selector",
        Seen(job("Initializing"), pods=[unschedulable("5 node(s) didn't match Pod's node affinity/selector.")]),
        ["node_selector"],
    ),
    (
        "claim",
        Seen(job("Initializing"), pods=[unschedulable('persistentvolumeclaim "raymill-store" not found.')]),
        ["make the claim"],
    ),
    (
        "labels",
        Seen(job("Initializing"), pods=[unschedulable("0/3 nodes are available: 3 node(s) were unschedulable.")]),
        ["has no node: 0/3 nodes are available: 3 node(s) were unschedulable."],
    ),
    (
        "image",
        Seen(job("Initializing"), pods=[waiting("ImagePullBackOff", 'Back-off pulling image "raymill:9"', init=True)]),
        ['Back-off pulling image "raymill:9"', "`pull_secrets`"],
    ),
    (
        "secret",
        Seen(
            job("Initializing"),
            pods=[waiting("CreateContainerConfigError", 'secret "raymill-ray-token" not found')],
        ),
        ['secret "raymill-ray-token" not found', "make the Secret"],
    ),
    (
        "quota of the namespace",
        Seen(
            job("Initializing"),
            events=[event("FailedCreate", 'pods "x" is forbidden: exceeded quota: team, requested: cpu=16')],
        ),
        ["exceeded quota: team", "ResourceQuota"],
    ),
    (
        "pod security",
        Seen(job("Initializing"), events=[event("FailedCreate", 'violates PodSecurity "restricted:latest"')]),
        ["violates PodSecurity", "setting of your own"],
    ),
    (
        "mount",
        Seen(job("Initializing"), events=[event("FailedMount", 'configmap "x-recipe" not found')]),
        ["FailedMount: configmap"],
    ),
    ("starts", Seen(job("Initializing"), events=[event("Pulled", "ok", "Normal")]), ["its cluster is starting"]),
    (
        "Kueue's quota",
        Seen(
            job(labels=QUEUED),
            workload(
                (
                    "QuotaReserved",
                    "False",
                    "Pending",
                    "couldn't assign flavors to pod set gpu: insufficient unused quota for nvidia.com/gpu in flavor"
                    " h100, 8 more needed",
                )
            ),
            position=3,
        ),
        ["queue team, 3 before it: couldn't assign flavors", "8 more needed", "larger quota"],
    ),
    (
        "no queue",
        Seen(job(labels=QUEUED), workload(("QuotaReserved", "False", "Inadmissible", "LocalQueue team doesn't exist"))),
        ["LocalQueue team doesn't exist", "have the queue made"],
    ),
    ("no workload", Seen(job(labels=QUEUED)), ["Kueue has made no workload", "check that Kueue runs"]),
    (
        "preempted",
        Seen(
            job(labels=QUEUED),
            workload(
                ("Evicted", "True", "Preempted", "Preempted to accommodate a workload of higher priority"),
                ("QuotaReserved", "False", "Pending", "couldn't assign flavors"),
            ),
        ),
        ["sent back to the queue (Preempted)", "couldn't assign flavors"],
    ),
    (
        "admission checks",
        Seen(
            job(labels=QUEUED),
            workload(
                ("QuotaReserved", "True", "QuotaReserved", ""),
                admissionChecks=[{"name": "provision", "state": "Pending", "message": "no capacity in zone a"}],
            ),
        ),
        ["waits for checks: provision (Pending): no capacity in zone a"],
    ),
    (
        "submitter",
        Seen(
            job("Failed", reason="SubmissionFailed", message="submitter job has reached backoff limit"),
            pods=[
                pod(
                    "raymill-x-abcde",
                    containerStatuses=[
                        {"name": "ray-job-submitter", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
                    ],
                )
            ],
        ),
        ["SubmissionFailed: submitter job", "raymill-x-abcde, container ray-job-submitter ended with 1"],
    ),
    (
        "too late",
        Seen(
            job("Failed", reason="PreRunningDeadlineExceeded", message="not running within 3600 seconds"),
            pods=[unschedulable("0/3 nodes are available: 3 Insufficient memory.")],
        ),
        ["PreRunningDeadlineExceeded", "missing: memory"],
    ),
    (
        "memory",
        Seen(
            job("Failed", "FAILED", reason="AppFailed", message="exit code 137"),
            pods=[
                pod(
                    containerStatuses=[
                        {
                            "name": "ray",
                            "state": {},
                            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                        }
                    ]
                )
            ],
        ),
        ["AppFailed", "killed for memory", "`memory_gib`"],
    ),
    ("again", Seen(job("Retrying", "FAILED", failed=2)), ["it failed 2 times and is tried again"]),
    ("driver", Seen(job("Running", "PENDING")), ["waits for a place to run its driver"]),
    ("stopped", Seen(job("Complete", "STOPPED"), pods=[waiting("ImagePullBackOff")]), ["somebody stopped it"]),
    (
        "evicted",
        Seen(job("Initializing"), pods=[pod(reason="Evicted", message="The node was low on ephemeral-storage")]),
        ["was evicted: The node was low", "scratch space"],
    ),
]


@pytest.mark.parametrize(("seen", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_reason_is_told(seen: Seen, words: list[str]) -> None:
    reasons = explain(seen)
    text = "\n".join(f"{each.what}: {each.next_step}" for each in reasons)
    assert [word for word in words if word not in text] == []
    assert reasons


def test_a_reason_is_told_once() -> None:
    twice = [waiting("ErrImagePull", "no such image")] * 3
    assert len(explain(Seen(job("Initializing"), pods=twice))) == 1


def test_what_kept_pods_away_that_run_by_now_is_not_told() -> None:
    mounted = {**event("FailedMount", "timed out"), "involvedObject": {"name": "raymill-x-head"}}
    assert explain(Seen(job("Running", "RUNNING"), pods=[pod(phase="Running")], events=[mounted])) == [
        Reason("it runs")
    ]


def test_a_queued_job_does_not_blame_pods_of_its_last_try() -> None:
    seen = Seen(job(labels=QUEUED), workload(), pods=[waiting("CrashLoopBackOff")])
    assert all("CrashLoop" not in reason.what for reason in explain(seen))
    assert isinstance(explain(seen)[0], Reason)
