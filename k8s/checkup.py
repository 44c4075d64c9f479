"""Whether a place on Kubernetes has what a profile needs.

Looked for are kinds, the operator and its gates, the namespace, secrets, the volume, the queue, the shared cluster.
What we may not ask is a warning, never a guess. Of Secrets only the keys' names are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.checkup import Finding
from cluster.errors import UserError
from cluster.jobs import Submission
from cluster.kubectl import Kubectl
from k8s.cluster_profile import Profile
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform

OPERATOR, OPERATOR_LABEL = "v1.7", "app.kubernetes.io/name=kuberay-operator"
WHOSE = {
    "ray.io": "install KubeRay 1.7",
    "kueue.x-k8s.io": "install Kueue, or leave `queue` out of the profile",
    "monitoring.coreos.com": "install Prometheus' operator, or set `monitoring.enabled: false`",
    "cert-manager.io": "install cert-manager, or set `tls: false`",
}
MADE_FOR_TLS = {"cert-manager.io/v1": {"Certificate", "Issuer"}}
"""Kinds that KubeRay makes itself where a cluster wants TLS."""
ON_BY_DEFAULT = frozenset(
    {"RayClusterStatusConditions", "RayJobDeletionPolicy", "RayMultiHostIndexing", "RayServiceIncrementalUpgrade"}
)
"""Gates that KubeRay v1.7.0 switches on by itself (``pkg/features/features.go``)."""


def examine(profile: Profile, kubectl: Kubectl) -> Iterator[Finding]:
    """Every check of a place, in order.

    Raises:
        UserError: kubectl is missing, or its context.
        InfraError: the API server does not answer.
    """
    yield from kinds(profile, kubectl)
    yield operator(profile, Kubectl(profile.network.operator_namespace, kubectl.context, kubectl.program))
    there = kubectl.get("namespace", profile.namespace) is not None
    yield _found(f"namespace {profile.namespace}", there, "apply `raymill manifests PROFILE`")
    if there:
        yield from secrets(profile, kubectl)
        yield from volume(profile, kubectl)
        yield from queue(profile, kubectl)
        yield from shared_cluster(profile, kubectl)


def kinds(profile: Profile, kubectl: Kubectl) -> Iterator[Finding]:
    """Whether the API server knows every kind that is rendered for this profile."""
    submission = Submission("x", "name: x\n", profile.store, ("raymill",))
    rendered = [*platform(profile), *job_manifests(profile, submission), *service_manifests(profile, "x", "name: x\n")]
    wanted = {version: set(needed) for version, needed in MADE_FOR_TLS.items() if profile.tls}
    for manifest in rendered:
        wanted.setdefault(manifest["apiVersion"], set()).add(manifest["kind"])
    for version in sorted(wanted):
        group = version.partition("/")[0]
        if group not in WHOSE:
            continue
        answer = kubectl.raw(f"/apis/{version}") or {}
        known = {each["kind"] for each in answer.get("resources", [])}
        lacking = sorted(wanted[version] - known)
        yield _found(version, not lacking, f"no {', '.join(lacking)}: {WHOSE[group]}")


def operator(profile: Profile, kubectl: Kubectl) -> Finding:
    """Whether KubeRay's operator runs, in a version whose rules we know, with the profile's feature gates."""
    name = f"KubeRay's operator in {kubectl.namespace}"
    try:
        found = kubectl.all("deployments", OPERATOR_LABEL)
    except UserError as error:
        return Finding(name, "warning", error.what, "ask those who run it for its version and gates")
    if not found:
        return Finding(name, "warning", "not there", "name its namespace in `network.operator_namespace`")
    container = found[0]["spec"]["template"]["spec"]["containers"][0]
    image, gates = container["image"], gates_of(container)
    off = sorted(set(profile.feature_gates) - gates)
    if off:
        return Finding(name, "missing", f"{image}; off: {', '.join(off)}", "start it with --feature-gates=NAME=true")
    if not found[0].get("status", {}).get("availableReplicas"):
        return Finding(name, "missing", f"{image}; no replica is available", "look at its pods")
    tag = image.partition("@")[0].rpartition(":")[2]
    known = tag.startswith(OPERATOR)
    return Finding(name, "ok" if known else "warning", image, "" if known else f"the checks know {OPERATOR}")


def gates_of(container: dict[str, Any]) -> frozenset[str]:
    """The feature gates that an operator's container is started with, and those that are on by themselves."""
    on = set(ON_BY_DEFAULT)
    words = [*container.get("command", []), *container.get("args", [])]
    for word in words:
        if word.lstrip("-").startswith("feature-gates="):
            for pair in word.partition("=")[2].split(","):
                name, _, value = pair.partition("=")
                (on.add if value.lower() == "true" else on.discard)(name)
    return frozenset(on)


def secrets(profile: Profile, kubectl: Kubectl) -> Iterator[Finding]:
    """Whether every Secret that pods name is there, with its keys."""
    wanted: dict[str, set[str]] = {profile.token_secret: {"auth_token"}}
    if profile.s3 and profile.s3.secret:
        wanted[profile.s3.secret] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    if profile.fault_tolerance.redis != "none":
        wanted[profile.fault_tolerance.secret] = {"password"}
    wanted |= {name: set() for name in (*profile.environment_secrets, *profile.pull_secrets)}
    for name, keys in wanted.items():
        try:
            there = kubectl.keys("secret", name)
        except UserError as error:
            yield Finding(f"Secret {name}", "warning", error.what, "ask those who may read it")
            continue
        lacking = ", ".join(sorted(keys - (there or set())))
        what = "not there" if there is None else f"without {lacking}"
        yield _found(f"Secret {name}", there is not None and not lacking, f"{what}: make it; see docs/kubernetes.md")


def volume(profile: Profile, kubectl: Kubectl) -> Iterator[Finding]:
    """Whether the store's claim is bound."""
    if profile.claim:
        found = kubectl.get("persistentvolumeclaim", profile.claim.name)
        phase = (found or {}).get("status", {}).get("phase", "not there")
        fix = "make it, or set `claim.size_gib`; it needs a StorageClass with ReadWriteMany"
        yield Finding(
            f"claim {profile.claim.name}",
            "ok" if phase == "Bound" else "missing",
            phase,
            _unless(phase == "Bound", fix),
        )


def queue(profile: Profile, kubectl: Kubectl) -> Iterator[Finding]:
    """Whether the queue is there and open."""
    if profile.queue:
        name = f"LocalQueue {profile.queue.name}"
        found = kubectl.get("localqueues.kueue.x-k8s.io", profile.queue.name)
        conditions = (found or {}).get("status", {}).get("conditions", [])
        closed = [
            each.get("message", "") for each in conditions if each["type"] == "Active" and each["status"] != "True"
        ]
        if found is None or closed:
            yield Finding(
                name, "missing", closed[0] if closed else "not there", "have it made or opened by who runs Kueue"
            )
        else:
            waiting = found.get("status", {}).get("pendingWorkloads", 0)
            yield Finding(name, "ok", f"{waiting} wait in it")


def shared_cluster(profile: Profile, kubectl: Kubectl) -> Iterator[Finding]:
    """Whether the cluster that all jobs go to is there and ready."""
    if profile.jobs.cluster == "shared":
        name = f"RayCluster {profile.cluster}"
        found = kubectl.get("rayclusters.ray.io", profile.cluster)
        if found is None:
            yield _found(name, False, "not there: apply `raymill manifests PROFILE`")
        else:
            status = found.get("status", {})
            state, reason = status.get("state") or "not ready", status.get("reason") or ""
            fix = _unless(
                state == "ready", "`kubectl describe` it and its pods: a node, an image or a Secret is missing"
            )
            yield Finding(name, "missing" if fix else "ok", f"{state}: {reason}".removesuffix(": "), fix)


def _unless(well: bool, fix: str) -> str:
    return "" if well else fix


def _found(check: str, there: bool, fix: str) -> Finding:
    return Finding(
        check, "ok" if there else "missing", "there" if there else fix.partition(":")[0], "" if there else fix
    )
