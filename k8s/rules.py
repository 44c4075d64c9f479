"""What the API server's CEL rules, KubeRay's operator (v1.7.0) and Kueue's webhook refuse, and no schema shows.

The operator refuses late: the object is stored, and its status says ValidationFailed minutes later. Here every rule is
checked before anything is applied. Source of the rules: KubeRay's ``controllers/ray/utils/validation.go`` and the
``XValidation`` marks of its types; Kueue's ``rayjob_webhook.go`` and ``raycluster_webhook.go``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import available_timezones

import yaml

from cluster.errors import UserError
from k8s.names import Manifest
from k8s.rules_cluster import LABEL_NAME, LABEL_VALUE, cluster_problems
from k8s.rules_deletion import deletion_problems

NAME_LETTERS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
UPGRADES = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MAX_POD_SETS = 18
MAX_CONFIG_BYTES = 1 << 20
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True)
class Problem:
    """One thing that would be refused: of which object, at which field, and why."""

    manifest: str
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.manifest}: {self.field}: {self.why}"


Found = Iterator[tuple[str, str]]
"""(field, why)."""


def check(manifests: Iterable[Manifest], feature_gates: Iterable[str] = ()) -> list[Problem]:
    """Every problem of these manifests.

    Args:
        feature_gates: the operator's, beyond those that v1.7.0 switches on by itself.
    """
    gates = frozenset(feature_gates)
    return [
        Problem(f"{each.get('kind')} {each.get('metadata', {}).get('name')}", place, why)
        for each in manifests
        for place, why in _problems(each, gates)
    ]


def require_valid(manifests: Iterable[Manifest], feature_gates: Iterable[str], where: str) -> None:
    """Raise UserError with every problem, one a line."""
    problems = check(manifests, feature_gates)
    if problems:
        raise UserError("\n".join(map(str, problems)), where=where, next_step="change the profile; nothing was applied")


def _problems(manifest: Manifest, gates: frozenset[str]) -> Found:
    kind = str(manifest.get("kind"))
    yield from _names(manifest, kind)
    yield from _marks(manifest)
    kinds: dict[str, Callable[[Manifest, frozenset[str]], Found]] = {
        "RayCluster": _ray_cluster,
        "RayJob": _ray_job,
        "RayService": _ray_service,
        "RayCronJob": _ray_cron_job,
        "ConfigMap": _config_map,
    }
    if kind in kinds:
        yield from kinds[kind](manifest, gates)


def _names(manifest: Manifest, kind: str) -> Found:
    name = str(manifest.get("metadata", {}).get("name", ""))
    if kind in NAME_LETTERS:
        if len(name) > NAME_LETTERS[kind]:
            yield "metadata.name", f"{len(name)} letters; KubeRay takes {NAME_LETTERS[kind]} at most"
        if not DNS_1035.fullmatch(name):
            yield "metadata.name", f"{name!r} is no DNS label: lower-case letters, digits and -, a letter first"
    elif len(name) > 253 or not DNS_1123.fullmatch(name):
        yield "metadata.name", f"{name!r} is no name of an object: lower-case letters, digits, - and ., 253 at most"


def _managed_by(spec: Manifest) -> Found:
    manager = spec.get("managedBy")
    if manager is not None and manager not in MANAGERS:
        yield "spec.managedBy", f"must be one of {', '.join(MANAGERS)}"


def _ray_cluster(manifest: Manifest, gates: frozenset[str]) -> Found:
    spec = manifest.get("spec", {})
    yield from _managed_by(spec)
    yield from cluster_problems(spec, gates, manifest["metadata"].get("annotations", {}), "spec")
    if QUEUE_LABEL in manifest["metadata"].get("labels", {}):
        yield from _queued(spec, "spec")


def _ray_job(manifest: Manifest, gates: frozenset[str]) -> Found:
    spec, marks = manifest.get("spec", {}), manifest.get("metadata", {})
    yield from _managed_by(spec)
    yield from _job_spec(spec, gates, marks.get("annotations", {}))
    if QUEUE_LABEL in marks.get("labels", {}) and not spec.get("clusterSelector"):
        if not spec.get("shutdownAfterJobFinishes"):
            yield "spec.shutdownAfterJobFinishes", "Kueue wants a queued job's cluster to go when it has ended"
        submitted = spec.get("submissionMode", "K8sJobMode") == "K8sJobMode"
        others = ("head", "submitter") if submitted else ("head",)
        yield from _queued(spec.get("rayClusterSpec", {}), "spec.rayClusterSpec", others)


def _queued(cluster: Manifest, where: str, others: tuple[str, ...] = ("head",)) -> Found:
    """Kueue's rules.

    Args:
        others: what it counts besides the groups; with a group of such a name, or too many, no workload is made.
    """
    if cluster.get("enableInTreeAutoscaling"):
        yield f"{where}.enableInTreeAutoscaling", "Kueue counts a cluster's pods: one in a queue keeps its size"
    groups = cluster.get("workerGroupSpecs", [])
    if len(groups) + len(others) > MAX_POD_SETS:
        yield f"{where}.workerGroupSpecs", f"Kueue takes {MAX_POD_SETS - len(others)} groups at most"
    for index, group in enumerate(groups):
        if (name := group.get("groupName")) in others:
            yield f"{where}.workerGroupSpecs.{index}.groupName", f"Kueue keeps the name {name} for itself"


def _job_spec(spec: Manifest, gates: frozenset[str], annotations: Manifest) -> Found:
    shut, selector, cluster = (
        spec.get("shutdownAfterJobFinishes"),
        spec.get("clusterSelector"),
        spec.get("rayClusterSpec"),
    )
    mode = spec.get("submissionMode", "K8sJobMode")
    ttl, backoff = spec.get("ttlSecondsAfterFinished", 0), spec.get("backoffLimit", 0)
    if mode not in SUBMISSION_MODES:
        yield "spec.submissionMode", f"must be one of {', '.join(SUBMISSION_MODES)}"
    if spec.get("suspend") and not shut:
        yield "spec.suspend", "a job that keeps its cluster (shutdownAfterJobFinishes: false) cannot be suspended"
    if spec.get("suspend") and selector:
        yield "spec.suspend", "a job on an existing cluster (clusterSelector) cannot be suspended"
    if ttl < 0:
        yield "spec.ttlSecondsAfterFinished", "must not be negative"
    if ttl > 0 and not shut:
        yield "spec.ttlSecondsAfterFinished", "needs shutdownAfterJobFinishes: true"
    yield from deletion_problems(spec, gates)
    if cluster is None and not selector:
        yield "spec", "needs rayClusterSpec or clusterSelector"
    if selector is not None and selector:
        if not selector.get("ray.io/cluster"):
            yield "spec.clusterSelector", "names no cluster under ray.io/cluster"
        if mode == "SidecarMode":
            yield "spec.clusterSelector", "is not for SidecarMode"
        if backoff > 0:
            yield "spec.backoffLimit", "a job on an existing cluster (clusterSelector) is not tried again"
        if cluster is not None:
            yield "spec.clusterSelector", "together with rayClusterSpec: name one of the two"
    if mode == "InteractiveMode" and backoff > 0:
        yield "spec.backoffLimit", "is not for InteractiveMode"
    if backoff < 0:
        yield "spec.backoffLimit", "must not be negative"
    if mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig"):
            if name in spec:
                yield f"spec.{name}", "is not for SidecarMode"
        restart = _at(cluster or {}, "headGroupSpec.template.spec.restartPolicy", "Never")
        if restart not in ("", "Never"):
            yield "spec.rayClusterSpec.headGroupSpec", "its restartPolicy must be Never in SidecarMode"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if name in spec and spec[name] <= 0:
            yield f"spec.{name}", "must be greater than 0"
    yield from _runtime_environment(spec)
    if cluster is not None:
        if _at(cluster, "authOptions.enableK8sTokenAuth"):
            yield "spec.rayClusterSpec.authOptions.enableK8sTokenAuth", "KubeRay does not support it for a RayJob"
        yield from cluster_problems(cluster, gates, annotations, "spec.rayClusterSpec", owned=True)


def _runtime_environment(spec: Manifest) -> Found:
    text = spec.get("runtimeEnvYAML", "")
    try:
        parsed = yaml.safe_load(text) if text else {}
    except yaml.YAMLError:
        yield "spec.runtimeEnvYAML", "is not YAML"
        return
    if not isinstance(parsed, dict):
        yield "spec.runtimeEnvYAML", "must be a mapping"
    # Our own: the operator writes both into a shell's double quotes, where the shell still replaces these.
    for name, shown in (("runtimeEnvYAML", text), ("metadata", " ".join(map(str, spec.get("metadata", {}).values())))):
        if re.search(r"[$`]", shown):
            yield f"spec.{name}", "holds $ or `, which the submitter's shell would replace"


def _ray_service(manifest: Manifest, gates: frozenset[str]) -> Found:
    spec = manifest.get("spec", {})
    cluster = spec.get("rayClusterConfig", {})
    yield from _managed_by(spec)
    yield from _timeout(manifest["metadata"].get("annotations", {}))
    if _at(cluster, "authOptions.enableK8sTokenAuth"):
        yield "spec.rayClusterConfig.authOptions.enableK8sTokenAuth", "KubeRay does not support it for a RayService"
    annotations = manifest["metadata"].get("annotations", {})
    yield from cluster_problems(cluster, gates, annotations, "spec.rayClusterConfig", owned=True)
    if _at(cluster, "headGroupSpec.headService.metadata.name"):
        yield "spec.rayClusterConfig.headGroupSpec.headService", "must have no name: KubeRay gives it one"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "spec.rayClusterDeletionDelaySeconds", "must not be negative"
    kind = _at(spec, "upgradeStrategy.type")
    if kind is not None and kind not in UPGRADES:
        yield "spec.upgradeStrategy.type", f"must be one of {', '.join(UPGRADES)}"
    if kind == "NewClusterWithIncrementalUpgrade":
        yield from _incremental(spec, cluster)


def _incremental(spec: Manifest, cluster: Manifest) -> Found:
    options, where = _at(spec, "upgradeStrategy.clusterUpgradeOptions"), "spec.upgradeStrategy.clusterUpgradeOptions"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "spec.upgradeStrategy.type", "an incremental upgrade needs the autoscaler"
    if options is None:
        yield where, "is needed for an incremental upgrade"
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not 0 <= surge <= 100:
        yield f"{where}.maxSurgePercent", "must lie between 0 and 100"
    if not 0 <= step <= 100:
        yield f"{where}.stepSizePercent", "must lie between 0 and 100"
    if step > surge:
        yield f"{where}.stepSizePercent", "must not be greater than maxSurgePercent"
    if options.get("intervalSeconds", 0) <= 0:
        yield f"{where}.intervalSeconds", "must be greater than 0"
    if not options.get("gatewayClassName"):
        yield f"{where}.gatewayClassName", "is needed for an incremental upgrade"


def _timeout(annotations: Manifest) -> Found:
    text = annotations.get("ray.io/initializing-timeout", "")
    plain = re.fullmatch(r"\+?\d+", text) and int(text) > 0
    going = re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms))+", text) and re.search(r"[1-9]", text)
    if text and not (plain or going):
        yield "metadata.annotations.ray.io/initializing-timeout", "must be like 30m, or a number of seconds"


def _ray_cron_job(manifest: Manifest, gates: frozenset[str]) -> Found:
    spec = manifest.get("spec", {})
    if "RayCronJob" not in gates:
        yield "kind", "needs KubeRay's feature gate RayCronJob, which is off by default"
    schedule, zone = spec.get("schedule", ""), spec.get("timeZone")
    if "TZ" in schedule:
        yield "spec.schedule", "must hold no TZ: use timeZone"
    elif not schedule.startswith("@") and len(schedule.split()) != 5:
        yield "spec.schedule", "must have five fields, or be like @daily"
    if zone == "":
        yield "spec.timeZone", "must not be empty"
    elif zone is not None and zone not in available_timezones():
        yield "spec.timeZone", f"{zone} is no time zone"
    for place, why in _job_spec(spec.get("jobTemplate", {}), gates, {}):
        yield place.replace("spec", "spec.jobTemplate", 1), why


def _config_map(manifest: Manifest, gates: frozenset[str]) -> Found:
    size = sum(len(str(value).encode()) for value in manifest.get("data", {}).values())
    size += sum(len(base64.b64decode(value)) for value in manifest.get("binaryData", {}).values())
    if size > MAX_CONFIG_BYTES:
        yield "data", f"{size:,} bytes; the API server takes {MAX_CONFIG_BYTES:,} at most"


def _marks(value: Any, where: str = "") -> Found:
    """Labels and node selectors anywhere in a manifest, by the API server's syntax."""
    if isinstance(value, dict):
        for key, item in value.items():
            at = f"{where}.{key}" if where else str(key)
            if key in ("labels", "matchLabels", "nodeSelector") and isinstance(item, dict):
                for name, text in item.items():
                    if isinstance(text, str) and not (LABEL_NAME.fullmatch(name) and LABEL_VALUE.fullmatch(text)):
                        yield at, f"{name}={text} is no label"
            elif key == "annotations" and isinstance(item, dict):
                yield from ((at, f"{name} is no annotation's name") for name in item if not LABEL_NAME.fullmatch(name))
            else:
                yield from _marks(item, at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _marks(item, f"{where}.{index}")


def _at(value: Any, path: str, default: Any = None) -> Any:
    """What stands at a dotted path; the default where anything on the way is missing."""
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value
