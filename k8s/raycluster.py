"""RayCluster: a head and groups of workers, with KubeRay's autoscaler, token authentication and Redis."""

from __future__ import annotations

from k8s.cluster_profile import Profile
from k8s.names import REDIS_PORT, TRAINING_PRIORITY, Manifest, metadata
from k8s.pods import CONTAINER_SECURITY, head_pod, worker_pod
from k8s.sections import PodSize

REDIS_NAME = "raymill-redis"
OBJECT_STORE_SHARE = 0.95
"""Of /dev/shm, as Ray itself would take at most."""


def cluster(profile: Profile) -> Manifest:
    """The profile's shared RayCluster."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": metadata(profile.cluster, profile.namespace),
        "spec": cluster_spec(profile, profile.cluster),
    }


def cluster_spec(
    profile: Profile,
    instance: str,
    *,
    recipe: str | None = None,
    priority: str = TRAINING_PRIORITY,
    queued: bool = False,
) -> Manifest:
    """What a RayCluster, a RayJob's own cluster and a RayService's have in common.

    Args:
        instance: whose pods they are; a label.
        recipe: a ConfigMap with a recipe that every pod mounts.
        priority: the pods' PriorityClass.
        queued: Kueue counts its pods, and admits no cluster that changes its size.
    """
    autoscale = profile.autoscale and not queued
    spec: Manifest = {
        "rayVersion": profile.ray_version,
        "authOptions": {"mode": "token", "secretName": profile.token_secret},
        "headGroupSpec": {
            # The head coordinates; work goes to the workers. The dashboard is the way in for jobs and the operator.
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0", **_start(profile.head, 0)},
            "template": head_pod(profile, instance, recipe=recipe, priority=priority, autoscale=autoscale),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": group.minimum if autoscale else group.fixed,
                "minReplicas": group.minimum,
                "maxReplicas": group.maximum,
                **({"idleTimeoutSeconds": group.idle_seconds} if autoscale else {}),
                "rayStartParams": _start(group, group.gpus),
                "template": worker_pod(profile, group, instance, recipe=recipe, priority=priority, autoscale=autoscale),
            }
            for group in profile.workers
        ],
    }
    if autoscale:
        size = {"cpu": "500m", "memory": "512Mi"}
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": min(group.idle_seconds for group in profile.workers),
            "imagePullPolicy": profile.pull_policy,
            "resources": {"requests": size, "limits": {"memory": size["memory"]}},
            "securityContext": CONTAINER_SECURITY,
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp", "subPath": "autoscaler"}],
        }
    if profile.fault_tolerance.redis != "none":
        secret = {"name": profile.fault_tolerance.secret, "key": "password"}
        address = profile.fault_tolerance.address or f"{REDIS_NAME}.{profile.namespace}.svc:{REDIS_PORT}"
        spec["gcsFaultToleranceOptions"] = {
            "redisAddress": f"redis://{address}",
            "redisPassword": {"valueFrom": {"secretKeyRef": secret}},
        }
    if profile.tls:
        spec["tlsOptions"] = {"enabled": True}
    return spec


def _start(size: PodSize, gpus: int) -> Manifest:
    """What Ray would not find out by itself.

    It takes three tenths of the memory for its object store, and puts it on disk where /dev/shm is smaller; KubeRay
    counts GPUs only under the names that it knows.
    """
    store = int(size.shared_memory_gib * 2**30 * OBJECT_STORE_SHARE)
    return {"num-gpus": str(gpus), "object-store-memory": str(store)}
