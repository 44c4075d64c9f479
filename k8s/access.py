"""The namespace, who may do what in it, who goes first, and how many pods must stay."""

from __future__ import annotations

from k8s.cluster_profile import Profile
from k8s.names import (
    HEAD,
    HEAD_ACCOUNT,
    SERVING_PRIORITY,
    TRAINING_PRIORITY,
    WORKER_ACCOUNT,
    Manifest,
    labels,
    metadata,
)

SUBMITTER_ROLE = "raymill-submitter"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
AUTOSCALER_RULES = [  # those that KubeRay would give the head by itself
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
    {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
]
SUBMITTER_RULES = [
    {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]},
    {"apiGroups": ["ray.io"], "resources": ["rayclusters", "rayservices"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads", "localqueues"], "verbs": ["get", "list"]},
    # A job's position in its queue.
    {"apiGroups": ["visibility.kueue.x-k8s.io"], "resources": ["localqueues/pendingworkloads"], "verbs": ["get"]},
]


def namespace(profile: Profile) -> list[Manifest]:
    """The namespace; it admits restricted pods only."""
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(profile.namespace, None, labels=RESTRICTED)}]


def accounts(profile: Profile) -> list[Manifest]:
    """Service accounts and their roles: the head's for the autoscaler, none for workers, one for who submits."""
    identity = {"annotations": dict(profile.s3.identity)} if profile.s3 and profile.s3.identity else {}
    found: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(name, profile.namespace, **identity),
            "automountServiceAccountToken": False,  # a pod that needs its token says so
        }
        for name in (HEAD_ACCOUNT, WORKER_ACCOUNT)
    ]
    if profile.autoscale:
        subject = {"kind": "ServiceAccount", "name": HEAD_ACCOUNT, "namespace": profile.namespace}
        found += _role(profile, HEAD_ACCOUNT, AUTOSCALER_RULES, [subject])
    groups = [{"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"} for name in profile.submitters]
    return found + _role(profile, SUBMITTER_ROLE, SUBMITTER_RULES, groups)


def _role(profile: Profile, name: str, rules: list[Manifest], subjects: list[Manifest]) -> list[Manifest]:
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "Role",
        "metadata": metadata(name, profile.namespace),
        "rules": rules,
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, profile.namespace),
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": subjects,
    }
    return [role, binding] if subjects else [role]


def priorities() -> list[Manifest]:
    """Serving goes before training, and takes its place where there is no other."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": metadata(name, None),
            "value": value,
            "preemptionPolicy": policy,
            "globalDefault": False,
            "description": text,
        }
        for name, value, policy, text in (
            (SERVING_PRIORITY, 100000, "PreemptLowerPriority", "Raymill's served models: may displace training."),
            (TRAINING_PRIORITY, 1000, "Never", "Raymill's jobs: wait for room."),
        )
    ]


def disruption(profile: Profile) -> list[Manifest]:
    """The shared cluster's head is not drained away.

    KubeRay's kinds have no scale subresource, so a budget over their pods can only be a number that must stay.
    """
    return [budget(profile, f"{profile.cluster}-head", labels(HEAD, profile.cluster), 1)]


def budget(profile: Profile, name: str, chosen: dict[str, str], stay: int) -> Manifest:
    """A PodDisruptionBudget: so many of these pods must stay when nodes are drained."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(name, profile.namespace),
        "spec": {"minAvailable": stay, "selector": {"matchLabels": chosen}},
    }


def queues(profile: Profile) -> list[Manifest]:
    """The LocalQueue, and the priority of its jobs, where the profile names a ClusterQueue."""
    queue = profile.queue
    if queue is None or queue.cluster_queue is None:
        return []
    found: list[Manifest] = [
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "LocalQueue",
            "metadata": metadata(queue.name, profile.namespace),
            "spec": {"clusterQueue": queue.cluster_queue},
        }
    ]
    if queue.priority:
        found.append(
            {
                "apiVersion": "kueue.x-k8s.io/v1beta2",
                "kind": "WorkloadPriorityClass",
                "metadata": metadata(queue.priority, None),
                "value": 1000,
                "description": "Raymill's jobs.",
            }
        )
    return found
