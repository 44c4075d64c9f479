"""Asks Kubernetes about submitted jobs; :mod:`k8s.why` says what the answers mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import InfraError
from cluster.jobs import INFRASTRUCTURE_CODES, attempt_of
from cluster.kubectl import Kubectl
from k8s.cluster_profile import Profile
from k8s.names import SUBMITTER_CONTAINER, Manifest
from k8s.why import Seen, state

OURS = "app.kubernetes.io/part-of=raymill"
ENDS = {"SUCCEEDED": 0, "STOPPED": 130}
THE_RUNS_OWN = ("AppFailed", "DeadlineExceeded")
"""KubeRay's reasons for a failure that is the run's and not the infrastructure's."""
HOPELESS = ("ValidationFailed", "PreRunningDeadlineExceeded")
"""Reasons that another attempt would meet again."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
VISIBILITY = ("v1beta2", "v1beta1")
"""Versions of Kueue's API that tells positions."""


@dataclass(frozen=True)
class KubernetesJob:
    """A RayJob of ours.

    Attributes:
        status: see :func:`k8s.why.state`.
        exit_code: of its entrypoint; None where it is not known.
    """

    name: str
    run: str
    recipe: str
    store: str
    status: str
    message: str
    exit_code: int | None
    started: str
    manifest: Manifest

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def code(self) -> int:
        """What a command that followed it should return: the run's own code, or 3 where it never gave one."""
        if self.status in ENDS:
            return ENDS[self.status]
        if self.exit_code:
            return self.exit_code
        return 1 if self.manifest.get("status", {}).get("reason") in THE_RUNS_OWN else 3

    @property
    def may_succeed_again(self) -> bool:
        """Whether the infrastructure ended it, so that another attempt may go better."""
        if self.status != "FAILED" or self.manifest.get("status", {}).get("reason") in HOPELESS:
            return False
        return self.code in INFRASTRUCTURE_CODES


def kubectl_of(profile: Profile) -> Kubectl:
    """The way to a profile's place."""
    return Kubectl(profile.namespace, profile.context)


def job_of(manifest: Manifest) -> KubernetesJob:
    """What a RayJob says, in short."""
    status, told = manifest.get("status", {}), manifest.get("spec", {}).get("metadata", {})
    message = str(status.get("message", ""))
    code = re.search(r"exit code (\d+)", message)
    return KubernetesJob(
        name=manifest["metadata"]["name"],
        run=told.get("raymill_run", manifest["metadata"]["name"]),
        recipe=told.get("raymill_recipe", ""),
        store=told.get("raymill_store", ""),
        status=state(manifest),
        message=message,
        exit_code=int(code.group(1)) if code else None,
        started=str(status.get("startTime", "")),
        manifest=manifest,
    )


def jobs(kubectl: Kubectl) -> list[KubernetesJob]:
    """Every job of ours in the namespace, newest last."""
    found = kubectl.all("rayjobs.ray.io", OURS)
    found.sort(key=lambda each: each["metadata"].get("creationTimestamp", ""))
    return [job_of(each) for each in found]


def attempts(kubectl: Kubectl, run_id: str) -> dict[int, KubernetesJob]:
    """Number -> job of each attempt at a run that Kubernetes still knows."""
    numbered = ((attempt_of(run_id, job.name), job) for job in jobs(kubectl))
    return {number: job for number, job in numbered if number is not None}


def job(kubectl: Kubectl, name: str) -> KubernetesJob | None:
    """One job; None where Kubernetes has none of this name (any more)."""
    found = kubectl.get("rayjobs.ray.io", name)
    return job_of(found) if found else None


def submitter_log(kubectl: Kubectl, name: str, lines: int) -> str:
    """The last lines of a job's log, as its submitter shows them."""
    return kubectl.logs(f"job-name={name}", container=SUBMITTER_CONTAINER, lines=lines)


def see(kubectl: Kubectl, found: KubernetesJob) -> Seen:
    """Everything that tells why a job is as it is."""
    manifest = found.manifest
    workload = _workload(kubectl, manifest)
    pods = kubectl.all("pods", f"job-name={found.name}")
    cluster = manifest.get("status", {}).get("rayClusterName")
    if cluster:
        pods += kubectl.all("pods", f"ray.io/cluster={cluster}")
    names = {found.name, cluster, *(pod["metadata"]["name"] for pod in pods)}
    events = [each for each in kubectl.all("events") if each.get("involvedObject", {}).get("name") in names]
    position = _position(kubectl, manifest, workload)
    return Seen(manifest, workload, position, pods, events, _missing(kubectl, manifest))


def has_cluster(kubectl: Kubectl, name: str) -> bool:
    """Whether a RayCluster is there."""
    return kubectl.get("rayclusters.ray.io", name) is not None


def _missing(kubectl: Kubectl, manifest: Manifest) -> str:
    """The cluster that a job is for, where it is not there; KubeRay waits for it in silence."""
    name = str(manifest.get("spec", {}).get("clusterSelector", {}).get("ray.io/cluster", ""))
    return name if name and not has_cluster(kubectl, name) else ""


def _workload(kubectl: Kubectl, manifest: Manifest) -> Manifest | None:
    if QUEUE_LABEL not in manifest["metadata"].get("labels", {}):
        return None
    uid = manifest["metadata"].get("uid", "")
    found = kubectl.all("workloads.kueue.x-k8s.io", f"kueue.x-k8s.io/job-uid={uid}")
    return found[0] if found else None


def _position(kubectl: Kubectl, manifest: Manifest, workload: Manifest | None) -> int | None:
    """How many wait before it, where Kueue's visibility API is there and we may ask it."""
    if workload is None:
        return None
    queue = manifest["metadata"]["labels"][QUEUE_LABEL]
    place = f"namespaces/{kubectl.namespace}/localqueues/{queue}/pendingworkloads"
    for version in VISIBILITY:
        try:
            answer = kubectl.raw(f"/apis/visibility.kueue.x-k8s.io/{version}/{place}")
        except InfraError:  # a server of Kueue's own answers it, which may be away while all else is there
            continue
        for each in (answer or {}).get("items", []):
            if each["metadata"]["name"] == workload["metadata"]["name"]:
                return int(each["positionInLocalQueue"])
    return None
