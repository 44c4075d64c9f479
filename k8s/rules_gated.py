"""KubeRay's rules for what its feature gates leave off by default: the head's memory on a volume, network policies of
its own, the history server; see :mod:`k8s.rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from k8s.names import Manifest

Found = Iterator[tuple[str, str]]
STORE_VARIABLES = {"RAY_gcs_storage", "RAY_gcs_storage_path"}
STORE_VOLUME, STORE_FOLDER = "gcs-storage", "/data/gcs"
WAYS = (("ingressRules", "DenyAllEgress", "ingress"), ("egressRules", "DenyAllIngress", "egress"))
COLLECTOR = "ray-history-collector"
COLLECTOR_VARIABLES = {
    *("POD_IP", "FQ_RAY_IP", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"),
    *("RAY_ROLE", "OWNER_KIND", "OWNER_NAME", "EVENTS_PORT"),
}
BACKENDS = {
    "GCS": ("GCS_BUCKET",),
    "S3": ("S3_REGION",),
    "ALIYUNOSS": ("ALIYUN_BUCKET", "ALIYUN_ENDPOINT", "ALIYUN_REGION"),
}
"""What the collector's backends must be told; Azure's way depends on how it proves itself, and is left to KubeRay."""
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def stored_on_a_volume(options: Manifest, head: Manifest, gates: frozenset[str], at: str, place: str) -> Found:
    """Problems of ``gcsFaultToleranceOptions`` with the backend rocksdb.

    Args:
        at: the options' field.
        place: the head's.
    """
    if "GCSFaultToleranceEmbeddedStorage" not in gates:
        yield at, "rocksdb needs KubeRay's feature gate GCSFaultToleranceEmbeddedStorage, which is off by default"
    for field in ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"):
        if options.get(field):
            yield f"{at}.{field}", "is for the backend redis"
    storage = options.get("storage") or {}
    if storage.get("claimName") and {"size", "storageClassName", "accessModes"} & storage.keys():
        yield f"{at}.storage.claimName", "excludes size, storageClassName and accessModes"
    pod = (head.get("template") or {}).get("spec") or {}
    container = (pod.get("containers") or [{}])[0]
    if STORE_VARIABLES & {each.get("name") for each in container.get("env") or []}:
        yield place, f"{' and '.join(sorted(STORE_VARIABLES))} are KubeRay's own with the backend rocksdb"
    mounted = any(
        each.get("name") == STORE_VOLUME or each.get("mountPath") == STORE_FOLDER
        for each in container.get("volumeMounts") or []
    )
    if mounted or any(each.get("name") == STORE_VOLUME for each in pod.get("volumes") or []):
        yield place, f"the volume {STORE_VOLUME} at {STORE_FOLDER} is KubeRay's own with the backend rocksdb"


def network_policy(policy: Manifest, groups: list[str], at: str) -> Found:
    """Problems of a cluster's ``networkPolicy``."""
    mode = policy.get("mode", "DenyAll")
    own = policy.get("workerGroups") or []
    sections = [(f"{at}.{name}", policy.get(name) or {}) for name in ("head", "worker")]
    sections += [(f"{at}.workerGroups.{index}", each) for index, each in enumerate(own)]
    for place, section in sections:
        for field, off, word in WAYS:
            if mode == off and section.get(field):
                yield f"{place}.{field}", f"mode {mode} restricts no {word}"
    for name in groups:
        if not DNS_1123.fullmatch(name):
            yield at, f"the group's name {name!r} becomes part of a policy's: lower-case letters, digits and - only"
    for index, each in enumerate(own):
        if each.get("groupName") not in groups:
            yield f"{at}.workerGroups.{index}.groupName", f"there is no group {each.get('groupName')}"


def history_server(options: Manifest, groups: list[Manifest], at: str) -> Found:
    """Problems of a cluster's ``historyServerOptions``; the groups are the head's and the workers'."""
    collector = options.get("collectorOptions")
    if collector is None:
        yield f"{at}.collectorOptions", "is needed"
        return
    if not collector.get("image"):
        yield f"{at}.collectorOptions.image", "is needed"
    told = {each.get("name"): each for each in collector.get("env") or []}
    for name in sorted(COLLECTOR_VARIABLES & told.keys()):
        yield f"{at}.collectorOptions.env", f"{name} is KubeRay's own"
    backend = (told.get("STORAGE_BACKEND") or {}).get("value")
    if not backend:
        yield f"{at}.collectorOptions.env", "STORAGE_BACKEND is needed, as a plain value"
        return
    for name in BACKENDS.get(backend.upper(), ()):
        if not (told.get(name) or {}).keys() & {"value", "valueFrom"}:
            yield f"{at}.collectorOptions.env", f"{name} is needed with STORAGE_BACKEND {backend}"
    for group in groups:
        containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or []
        if any(each.get("name") == COLLECTOR for each in containers):
            yield at, f"a pod has a container {COLLECTOR} of its own: that name is KubeRay's"
