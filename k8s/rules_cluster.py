"""KubeRay's rules for the specification of a cluster, alone or in a RayJob or RayService; see :mod:`k8s.rules`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from k8s.names import Manifest
from k8s.rules_gated import history_server, network_policy, stored_on_a_volume

GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
"""Fields that the operator refuses while their gate is off, as it is by default."""
TLS_VARIABLES = {"RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"}
TLS_VOLUME, TLS_FOLDER = "ray-tls", "/etc/ray/tls"
START_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"
LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

Found = Iterator[tuple[str, str]]


def cluster_problems(
    spec: Manifest, gates: frozenset[str], annotations: Manifest, where: str, *, owned: bool = False
) -> Found:
    """Every problem of a cluster's specification, as (field, why).

    Args:
        where: the specification's own field.
        owned: it is a RayJob's or a RayService's.
    """
    head = spec.get("headGroupSpec", {})
    groups = spec.get("workerGroupSpecs", [])
    scaled = bool(spec.get("enableInTreeAutoscaling"))
    second = (spec.get("autoscalerOptions") or {}).get("version") == "v2"
    yield from _group(head, f"{where}.headGroupSpec", "the head")
    names = [str(group.get("groupName")) for group in groups]
    for index, group in enumerate(groups):
        place, name = f"{where}.workerGroupSpecs.{index}", names[index]
        yield from _group(group, place, f"group {name}")
        yield from _size(group, place, scaled)
        yield from _scaled(group, place, scaled, second, spec, _environment(head))
        if names.index(name) < index:
            yield f"{place}.groupName", f"{name} is the name of another group, too"
    yield from _fault_tolerance(spec, head, annotations, gates, where)
    yield from _autoscaler(spec, head, groups, scaled, second, where)
    yield from _authentication(spec, where)
    if "upgradeStrategy" in spec and owned and spec["upgradeStrategy"].get("type") is not None:
        yield f"{where}.upgradeStrategy", "is for a RayCluster of its own only"
    for field, gate in GATED.items():
        if field in spec and gate not in gates:
            yield f"{where}.{field}", f"needs KubeRay's feature gate {gate}, which is off by default"
    if (policy := spec.get("networkPolicy")) is not None and GATED["networkPolicy"] in gates:
        yield from network_policy(policy, names, f"{where}.networkPolicy")
    if (history := spec.get("historyServerOptions")) is not None and GATED["historyServerOptions"] in gates:
        yield from history_server(history, [head, *groups], f"{where}.historyServerOptions")
    if (spec.get("tlsOptions") or {}).get("enabled"):
        yield from _tls(spec, head, groups, where)


def _group(group: Manifest, where: str, name: str) -> Found:
    parameters, resources = group.get("rayStartParams") or {}, group.get("resources") or {}
    if not _containers(group):
        yield f"{where}.template", f"{name} has no container"
    if resources and any(parameters.get(key) for key in START_RESOURCES):
        yield f"{where}.resources", "resources are in rayStartParams, too: use one of the two"
    if "labels" in parameters:
        yield f"{where}.rayStartParams.labels", "is not supported: use `labels` of the group"


def _size(group: Manifest, where: str, scaled: bool) -> Found:
    low, high = group.get("minReplicas"), group.get("maxReplicas")
    if not scaled and (low is None or high is None):
        yield where, "without the autoscaler, minReplicas and maxReplicas are both needed"
    for field, number in (("minReplicas", low), ("maxReplicas", high)):
        if number is not None and number < 0:
            yield f"{where}.{field}", "must not be negative"
    if low is not None and high is not None and low > high:
        yield f"{where}.minReplicas", f"{low} is greater than maxReplicas {high}"


def _scaled(group: Manifest, where: str, scaled: bool, second: bool, spec: Manifest, head: dict[str, Any]) -> Found:
    second = second or head.get(AUTOSCALER_V2) in ("1", "true")
    idle, priority = group.get("idleTimeoutSeconds"), group.get("priority", 0)
    if idle is not None and idle < 0:
        yield f"{where}.idleTimeoutSeconds", "must not be negative"
    elif idle is not None and not second:
        yield f"{where}.idleTimeoutSeconds", "needs the autoscaler's version v2"
    if priority and version_of(spec) < (2, 56, 0):
        yield f"{where}.priority", "needs rayVersion 2.56.0 or later"
    elif priority and not second:
        yield f"{where}.priority", "needs the autoscaler's version v2"
    if group.get("suspend") and scaled:
        yield f"{where}.suspend", "is not possible with the autoscaler"


def _fault_tolerance(spec: Manifest, head: Manifest, annotations: Manifest, gates: frozenset[str], where: str) -> Found:
    options = spec.get("gcsFaultToleranceOptions")
    parameters, variables = head.get("rayStartParams") or {}, _environment(head)
    enabled = annotations.get("ray.io/ft-enabled", "")
    if parameters.get("redis-username") or "REDIS_USERNAME" in variables:
        yield f"{where}.headGroupSpec", "a user of Redis is named in gcsFaultToleranceOptions.redisUsername only"
    if options is None:
        if "RAY_REDIS_ADDRESS" in variables and enabled.lower() != "true":
            yield f"{where}.headGroupSpec", "RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions"
        return
    at = f"{where}.gcsFaultToleranceOptions"
    if enabled:
        yield at, "together with the annotation ray.io/ft-enabled"
    if annotations.get("ray.io/external-storage-namespace"):
        yield at, "together with the annotation ray.io/external-storage-namespace"
    if parameters.get("redis-password") or {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & variables.keys():
        yield f"{where}.headGroupSpec", "Redis is named in gcsFaultToleranceOptions only, not in the head's pod"
    if options.get("backend", "redis") == "redis":
        if "storage" in options:
            yield f"{at}.storage", "is for the backend rocksdb"
        return
    yield from stored_on_a_volume(options, head, gates, at, f"{where}.headGroupSpec")


def _autoscaler(
    spec: Manifest, head: Manifest, groups: list[Manifest], scaled: bool, second: bool, where: str
) -> Found:
    options, flag = spec.get("autoscalerOptions") or {}, _environment(head).get(AUTOSCALER_V2)
    if not scaled and flag in ("1", "true"):
        yield f"{where}.headGroupSpec", f"{AUTOSCALER_V2} without enableInTreeAutoscaling"
    if scaled and options.get("version") and flag is not None:
        yield f"{where}.autoscalerOptions.version", f"the head's variable {AUTOSCALER_V2} says it, too"
    if scaled and second:
        for each, name in [(head, "head"), *((group, str(group.get("groupName"))) for group in groups)]:
            if _pod(each).get("restartPolicy", "Never") not in ("", "Never"):
                yield where, f"restartPolicy of {name} must be Never with the autoscaler's version v2"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield f"{where}.autoscalerOptions.idleTimeoutSeconds", "must not be negative"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in _variables(options.get("env")):
        yield f"{where}.autoscalerOptions.env", "KUBERAY_GEN_AUTOSCALER_START_CMD is KubeRay's own"


def _authentication(spec: Manifest, where: str) -> Found:
    options = spec.get("authOptions") or {}
    at, by_kubernetes = f"{where}.authOptions", options.get("enableK8sTokenAuth")
    if options.get("mode") != "token":
        if by_kubernetes:
            yield at, "enableK8sTokenAuth needs mode: token"
        return
    version = version_of(spec)
    if version < (2, 52, 0):
        yield at, f"mode: token needs rayVersion 2.52.0 or later, not {spec.get('rayVersion') or 'none'}"
    if by_kubernetes and version < (2, 55, 0):
        yield at, "enableK8sTokenAuth needs rayVersion 2.55.0 or later"
    if by_kubernetes and options.get("secretName"):
        yield at, "enableK8sTokenAuth excludes secretName"


def _tls(spec: Manifest, head: Manifest, groups: list[Manifest], where: str) -> Found:
    for group, place in [(head, "headGroupSpec"), *((each, str(each.get("groupName"))) for each in groups)]:
        mounts = (_containers(group) or [{}])[0].get("volumeMounts", [])
        if TLS_VARIABLES & _environment(group).keys() or _mounts_tls(mounts):
            yield f"{where}.tlsOptions", f"KubeRay sets up TLS by itself; {place} does it, too"
    options = spec.get("autoscalerOptions") or {}
    if TLS_VARIABLES & _variables(options.get("env")).keys() or _mounts_tls(options.get("volumeMounts", [])):
        yield f"{where}.tlsOptions", "KubeRay sets up TLS by itself; autoscalerOptions does it, too"


def _mounts_tls(mounts: list[Manifest]) -> bool:
    return any(each.get("name") == TLS_VOLUME or each.get("mountPath") == TLS_FOLDER for each in mounts)


def version_of(spec: Manifest) -> tuple[int, ...]:
    """The version of Ray as three numbers; nothing where it is missing or none."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", str(spec.get("rayVersion") or ""))
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _pod(group: Manifest) -> Manifest:
    found: Manifest = (group.get("template") or {}).get("spec") or {}
    return found


def _containers(group: Manifest) -> list[Manifest]:
    return _pod(group).get("containers") or []


def _environment(group: Manifest) -> dict[str, Any]:
    """Variables of the Ray container, which is the first one."""
    return _variables((_containers(group) or [{}])[0].get("env"))


def _variables(entries: list[Manifest] | None) -> dict[str, Any]:
    return {str(each.get("name")): each.get("value") for each in entries or []}
