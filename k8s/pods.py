"""The pods of a Ray cluster: what they may do, what they get, where they run."""

from __future__ import annotations

from typing import Any

from k8s.cluster_profile import STORE_MOUNT, Profile
from k8s.names import (
    COMPONENT,
    HEAD,
    HEAD_ACCOUNT,
    INSTANCE,
    PORTS,
    RECIPE_FOLDER,
    SUBMITTER_CONTAINER,
    WORKER,
    WORKER_ACCOUNT,
    Manifest,
    labels,
)
from k8s.sections import PodSize, WorkerGroup

USER = 1000
HOME = "/home/raymill"
CACHE_SHARE = 0.5
"""Of a pod's scratch space, for copies of models; the rest is Ray's."""
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
SPREAD = {"nodes": "kubernetes.io/hostname", "zones": "topology.kubernetes.io/zone"}


def head_pod(profile: Profile, instance: str, *, recipe: str | None = None, priority: str, autoscale: bool) -> Manifest:
    """The template of a head; it runs no tasks (its RayCluster says so).

    Args:
        instance: the cluster, job or service that it is of; a label.
        recipe: a ConfigMap with a recipe to mount.
        priority: the PriorityClass.
        autoscale: whether KubeRay's autoscaler decides about the cluster's pods.
    """
    ports = [{"name": name, "containerPort": port} for name, port in PORTS.items()]
    container = _container(profile, profile.head, {}, recipe)
    container["ports"] = [*ports, {"name": "serve", "containerPort": profile.serving.port}]
    spec = _pod(profile, profile.head, recipe, autoscale) | {
        "containers": [container],
        "serviceAccountName": HEAD_ACCOUNT,
        # Only the autoscaler, a container of the head, talks to the API server.
        "automountServiceAccountToken": autoscale,
        "priorityClassName": priority,
    }
    return {"metadata": {"labels": labels(HEAD, instance)}, "spec": spec}


def worker_pod(
    profile: Profile,
    group: WorkerGroup,
    instance: str,
    *,
    recipe: str | None = None,
    priority: str,
    autoscale: bool,
) -> Manifest:
    """The template of a group's workers; see :func:`head_pod`."""
    gpus = {group.gpu_resource: str(group.gpus)} if group.gpus else {}
    container = _container(profile, group, gpus, recipe)
    container["ports"] = [
        {"name": "metrics", "containerPort": PORTS["metrics"]},
        {"name": "serve", "containerPort": profile.serving.port},
    ]
    spec = _pod(profile, group, recipe, autoscale) | {
        "containers": [container],
        "serviceAccountName": WORKER_ACCOUNT,
        "automountServiceAccountToken": False,
        "priorityClassName": priority,
    }
    if group.runtime_class:
        spec["runtimeClassName"] = group.runtime_class
    if group.spread != "none":
        own = {COMPONENT: WORKER, INSTANCE: instance, "ray.io/group": group.name}
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": SPREAD[group.spread],
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": own},
            }
        ]
    return {"metadata": {"labels": labels(WORKER, instance)}, "spec": spec}


def submitter_pod(profile: Profile, instance: str, recipe: str) -> Manifest:
    """The pod that hands a job to its cluster. It reads the recipe and sends it along as the working directory."""
    size = {"cpu": "500m", "memory": "1Gi"}
    container = {
        "name": SUBMITTER_CONTAINER,
        "image": profile.image,
        "imagePullPolicy": profile.pull_policy,
        "securityContext": CONTAINER_SECURITY,
        "env": [{"name": "HOME", "value": HOME}],  # KubeRay adds Ray's token
        "resources": {"requests": size, "limits": {"memory": size["memory"]}},
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp", "subPath": "tmp"},
            {"name": "scratch", "mountPath": HOME, "subPath": "home"},
            _recipe_mount(),
        ],
    }
    return {
        "metadata": {"labels": labels("submitter", instance)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "serviceAccountName": WORKER_ACCOUNT,
            "securityContext": POD_SECURITY,
            **_pull_secrets(profile),
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}, _recipe_volume(recipe)],
        },
    }


def _container(profile: Profile, size: PodSize, gpus: Manifest, recipe: str | None) -> Manifest:
    exact = {"memory": quantity_gib(size.memory_gib), "ephemeral-storage": quantity_gib(size.scratch_gib), **gpus}
    mounts: list[Manifest] = [
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": "/tmp", "subPath": "tmp"},
        {"name": "scratch", "mountPath": HOME, "subPath": "home"},
    ]
    if profile.claim:
        mounts.append({"name": "store", "mountPath": STORE_MOUNT})
    if recipe:
        mounts.append(_recipe_mount())
    container: Manifest = {
        "name": "ray",
        "image": profile.image,
        "imagePullPolicy": profile.pull_policy,
        "securityContext": CONTAINER_SECURITY,
        "env": [*environment(profile), *_cache_limit(profile, size)],
        "resources": {"requests": {"cpu": f"{size.cpus:g}", **exact}, "limits": exact},
        "volumeMounts": mounts,
    }
    if profile.environment_secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in profile.environment_secrets]
    return container


def environment(profile: Profile) -> list[Manifest]:
    """Variables of head and workers; secrets by reference only. KubeRay adds Ray's token and its mode."""
    found: list[Manifest] = [
        {"name": "HOME", "value": HOME},
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        # A task on a node that is cut off is retried after seconds instead of minutes.
        {"name": "RAY_grpc_client_keepalive_time_ms", "value": "1000"},
        {"name": "RAY_grpc_client_keepalive_timeout_ms", "value": "2000"},
    ]
    if profile.s3:
        found.append({"name": "AWS_DEFAULT_REGION", "value": profile.s3.region})
        if profile.s3.endpoint_url:
            found.append({"name": "AWS_ENDPOINT_URL", "value": profile.s3.endpoint_url})
        if profile.s3.secret:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                reference = {"name": profile.s3.secret, "key": name}
                found.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    return found


def _cache_limit(profile: Profile, size: PodSize) -> list[Manifest]:
    """What copies of a bucket's models may take; the default is half of the node's disk, and a pod has less."""
    if not profile.s3:
        return []
    return [{"name": "RAYMILL_CACHE_BYTES", "value": str(int(size.scratch_gib * 2**30 * CACHE_SHARE))}]


def _pod(profile: Profile, size: PodSize, recipe: str | None, autoscale: bool) -> Manifest:
    volumes: list[Manifest] = [
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": quantity_gib(size.shared_memory_gib)},
        },
        {"name": "scratch", "emptyDir": {"sizeLimit": quantity_gib(size.scratch_gib)}},
    ]
    if profile.claim:
        volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": profile.claim.name}})
    if recipe:
        volumes.append(_recipe_volume(recipe))
    found: Manifest = {
        "securityContext": POD_SECURITY,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        **_pull_secrets(profile),
        "volumes": volumes,
    }
    if autoscale:
        found["restartPolicy"] = "Never"  # the autoscaler (version 2) replaces a pod, nobody restarts it
    if size.node_selector:
        found["nodeSelector"] = dict(size.node_selector)
    if size.tolerations:
        found["tolerations"] = [each.model_dump(exclude_none=True) for each in size.tolerations]
    return found


def _pull_secrets(profile: Profile) -> Manifest:
    return {"imagePullSecrets": [{"name": name} for name in profile.pull_secrets]} if profile.pull_secrets else {}


def _recipe_volume(name: str) -> Manifest:
    return {"name": "recipe", "configMap": {"name": name}}


def _recipe_mount() -> dict[str, Any]:
    return {"name": "recipe", "mountPath": RECIPE_FOLDER, "readOnly": True}


def quantity_gib(gib: float) -> str:
    """A Kubernetes quantity: whole GiB, else MiB."""
    return f"{gib:.0f}Gi" if gib == int(gib) else f"{round(gib * 1024)}Mi"
