"""Where artifacts and the head's memory are kept: the store's volume, and an own Redis."""

from __future__ import annotations

from k8s.cluster_profile import Profile
from k8s.names import REDIS, REDIS_PORT, Manifest, labels, metadata
from k8s.pods import CONTAINER_SECURITY, POD_SECURITY, quantity_gib
from k8s.raycluster import REDIS_NAME

REDIS_USER = 999
START_REDIS = (
    # The password goes through a file that only Redis reads, never through a command line.
    "umask 077; printf 'requirepass %s\\nappendonly yes\\ndir /data\\n' \"$REDIS_PASSWORD\" > /tmp/redis.conf; "
    "exec redis-server /tmp/redis.conf"
)
PING = 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli ping | grep -q PONG'


def storage(profile: Profile) -> list[Manifest]:
    """The claim and Redis, where the profile wants them made."""
    found: list[Manifest] = []
    if profile.claim and profile.claim.size_gib:
        own = {"storageClassName": profile.claim.storage_class} if profile.claim.storage_class else {}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": metadata(profile.claim.name, profile.namespace),
                "spec": {
                    "accessModes": ["ReadWriteMany"],
                    "resources": {"requests": {"storage": quantity_gib(profile.claim.size_gib)}},
                    **own,
                },
            }
        )
    if profile.fault_tolerance.redis == "own":
        found += [_redis_service(profile), _redis(profile)]
    return found


def _redis_service(profile: Profile) -> Manifest:
    own = labels(REDIS, REDIS_NAME)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(REDIS_NAME, profile.namespace, labels=own),
        "spec": {"clusterIP": "None", "selector": own, "ports": [{"name": "redis", "port": REDIS_PORT}]},
    }


def _redis(profile: Profile) -> Manifest:
    own = labels(REDIS, REDIS_NAME)
    secret = {"name": profile.fault_tolerance.secret, "key": "password"}
    probe = {"exec": {"command": ["sh", "-c", PING]}, "periodSeconds": 10, "timeoutSeconds": 5}
    container: Manifest = {
        "name": "redis",
        "image": profile.fault_tolerance.image,
        "imagePullPolicy": profile.pull_policy,
        "command": ["sh", "-c", START_REDIS],
        "env": [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": secret}}],
        "ports": [{"name": "redis", "containerPort": REDIS_PORT}],
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "livenessProbe": {**probe, "failureThreshold": 6},
        "readinessProbe": {**probe, "failureThreshold": 2},
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "scratch", "mountPath": "/tmp"}],
    }
    security = POD_SECURITY | {"runAsUser": REDIS_USER, "runAsGroup": REDIS_USER, "fsGroup": REDIS_USER}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    if profile.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in profile.pull_secrets]
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": quantity_gib(profile.fault_tolerance.storage_gib)}},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(REDIS_NAME, profile.namespace, labels=own),
        "spec": {
            "serviceName": REDIS_NAME,
            "replicas": 1,
            "selector": {"matchLabels": own},
            "template": {"metadata": {"labels": own}, "spec": pod},
            "volumeClaimTemplates": [claim],
        },
    }
