"""Names that several manifests must agree on: labels, ports, accounts."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

PART_OF = {"app.kubernetes.io/part-of": "raymill"}
COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"
HEAD, WORKER, SUBMITTER, REDIS = "ray-head", "ray-worker", "submitter", "redis"
SUBMITTER_CONTAINER = "ray-job-submitter"
"""The container that hands a job to its cluster, as KubeRay calls it."""

PORTS = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "metrics": 8080,
    "as-metrics": 44217,
    "dash-metrics": 44227,
}
"""Ports of a head by the names that KubeRay and the PodMonitor know them by; the Ray client's is not among them."""
REDIS_PORT = 6379

HEAD_ACCOUNT, WORKER_ACCOUNT = "raymill-head", "raymill-worker"
TRAINING_PRIORITY, SERVING_PRIORITY = "raymill-training", "raymill-serving"
RECIPE_FOLDER = "/etc/raymill"
"""Where a recipe's ConfigMap is mounted: in the submitter of a job, in every pod of a served recipe."""
RECIPE_FILE = "recipe.yaml"


def labels(component: str, instance: str) -> dict[str, str]:
    """Labels of a pod, and of what belongs to it."""
    return PART_OF | {COMPONENT: component, INSTANCE: instance}


def selector(*components: str) -> Manifest:
    """A label selector for our pods of these kinds, whatever cluster they are of."""
    return {
        "matchLabels": dict(PART_OF),
        "matchExpressions": [{"key": COMPONENT, "operator": "In", "values": list(components)}],
    }


def metadata(name: str, namespace: str | None, **more: Any) -> Manifest:
    """An object's metadata; a namespace of None is for objects of the whole cluster."""
    extra = more.pop("labels", {})
    place = {"namespace": namespace} if namespace else {}
    return {"name": name, **place, "labels": PART_OF | extra, **more}
