"""NetworkPolicies, read as Kubernetes reads them: which ways are open, and that every other one is closed.

The reading is this file's own: a connection is allowed when some policy of the sender's allows it out, and some
policy of the receiver's allows it in; a pod that no policy selects for a direction is open in it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import pytest

from k8s.cluster_profile import Profile, load_profile
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform

Manifest = dict[str, Any]


@dataclass(frozen=True)
class End:
    """A pod of a namespace, or an address outside the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "raymill"
    address: str = "10.1.2.3"
    outside: bool = False


def selected(selector: Manifest, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


def peer_fits(peer: Manifest, end: End, home: str) -> bool:
    if "ipBlock" in peer:
        return ipaddress.ip_address(end.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    if end.outside:
        return False
    spaces = peer.get("namespaceSelector")
    in_space = (
        end.namespace == home if spaces is None else selected(spaces, {"kubernetes.io/metadata.name": end.namespace})
    )
    return in_space and selected(peer.get("podSelector", {}), end.labels)


def way(policies: list[Manifest], own: End, other: End, port: int, protocol: str, direction: str) -> bool:
    """Whether the policies over one end allow a connection in this direction."""
    if own.outside or own.namespace != "raymill":
        return True
    over = [
        each["spec"]
        for each in policies
        if selected(each["spec"]["podSelector"], own.labels) and direction in each["spec"]["policyTypes"]
    ]
    if not over:
        return True
    peers = "from" if direction == "Ingress" else "to"
    for spec in over:
        for rule in spec.get(direction.lower(), []):
            fits = peers not in rule or any(peer_fits(peer, other, "raymill") for peer in rule[peers])
            open_ports = [(each["port"], each.get("protocol", "TCP")) for each in rule.get("ports", [])]
            if fits and (not open_ports or (port, protocol) in open_ports):
                return True
    return False


def allowed(policies: list[Manifest], sender: End, receiver: End, port: int, protocol: str = "TCP") -> bool:
    out = way(policies, sender, receiver, port, protocol, "Egress")
    return out and way(policies, receiver, sender, port, protocol, "Ingress")


@pytest.fixture(scope="module")
def ends() -> dict[str, End]:
    """Pods with the labels that the renderer gives them, and others."""
    from cluster.jobs import Submission

    profile = load_profile("gpu")
    job = job_manifests(profile, Submission("x", "name: x\n", profile.store, ("raymill",)))[1]["spec"]
    service = service_manifests(profile, "served", "name: x\n")[1]["spec"]["rayClusterConfig"]
    (redis,) = [each for each in platform(profile) if each["kind"] == "StatefulSet"]

    def end(template: Manifest) -> End:
        return End(template["metadata"]["labels"])

    return {
        "head": end(job["rayClusterSpec"]["headGroupSpec"]["template"]),
        "worker": end(job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]),
        "submitter": end(job["submitterPodTemplate"]),
        "served head": end(service["headGroupSpec"]["template"]),
        "served worker": end(service["workerGroupSpecs"][1]["template"]),
        "redis": end(redis["spec"]["template"]),
        "stranger": End({"app": "x"}),
        "other namespace": End({"app": "x"}, namespace="other"),
        "operator": End({"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay-system"),
        "prometheus": End({"app": "prometheus"}, namespace="monitoring"),
        "ingress": End({"app": "ingress"}, namespace="ingress-nginx"),
        "dns": End({"k8s-app": "kube-dns"}, namespace="kube-system"),
        "api server": End(address="172.16.0.1", outside=True),
        "store": End(address="52.216.1.1", outside=True),
        "internet": End(address="1.2.3.4", outside=True),
    }


OPEN = [
    ("worker", "head", 6379, "Ray"),
    ("head", "worker", 23456, "Ray binds ports of its own choice"),
    ("worker", "worker", 10002, "objects go between workers"),
    ("submitter", "head", 8265, "jobs are submitted"),
    ("operator", "head", 8265, "KubeRay asks after jobs"),
    ("operator", "served head", 8000, "and after the gateway's health"),
    ("prometheus", "worker", 8080, "metrics"),
    ("prometheus", "head", 44217, "the autoscaler's"),
    ("prometheus", "served worker", 8000, "the gateway's"),
    ("ingress", "served worker", 8000, "callers"),
    ("head", "redis", 6379, "what the head knows"),
    ("head", "api server", 443, "the autoscaler"),
    ("worker", "store", 443, "artifacts"),
]
CLOSED = [
    ("other namespace", "head", 8265, "the dashboard runs code"),
    ("other namespace", "head", 6379, "so does the GCS"),
    ("other namespace", "worker", 8000, "no callers' namespace"),
    ("stranger", "head", 8265, "in the namespace, and not of ours"),
    ("stranger", "worker", 10002, ""),
    ("stranger", "redis", 6379, ""),
    ("internet", "head", 8265, ""),
    ("internet", "worker", 8000, ""),
    ("submitter", "head", 6379, "nothing but the dashboard"),
    ("submitter", "worker", 10002, ""),
    ("submitter", "store", 443, "it holds no credentials"),
    ("operator", "head", 6379, ""),
    ("operator", "worker", 8265, ""),
    ("prometheus", "head", 8265, "metrics only"),
    ("ingress", "head", 8265, ""),
    ("ingress", "worker", 8080, ""),
    ("worker", "redis", 6379, "only heads know what is in it"),
    ("worker", "api server", 6443, "a worker has no business there"),
    ("worker", "internet", 80, ""),
    ("redis", "internet", 443, ""),
    ("redis", "head", 6379, ""),
    ("stranger", "internet", 443, "the namespace is closed for everybody"),
]


@pytest.fixture(scope="module")
def policies() -> list[Manifest]:
    profile = load_profile("gpu", ["network.store_cidrs=[52.216.0.0/15]", "network.api_server_cidrs=[172.16.0.1/32]"])
    return [each for each in platform(profile) if each["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(("sender", "receiver", "port", "why"), OPEN)
def test_what_is_needed_is_open(
    policies: list[Manifest], ends: dict[str, End], sender: str, receiver: str, port: int, why: str
) -> None:
    assert allowed(policies, ends[sender], ends[receiver], port)


@pytest.mark.parametrize(("sender", "receiver", "port", "why"), CLOSED)
def test_everything_else_is_closed(
    policies: list[Manifest], ends: dict[str, End], sender: str, receiver: str, port: int, why: str
) -> None:
    assert not allowed(policies, ends[sender], ends[receiver], port)


def test_every_policy_opens_something_that_is_needed(policies: list[Manifest], ends: dict[str, End]) -> None:
    """Without any one of them, a way above is closed: none is there for nothing."""
    for each in policies:
        if each["metadata"]["name"] in ("raymill-default-deny", "raymill-dns"):
            continue
        rest = [other for other in policies if other is not each]
        assert not all(allowed(rest, ends[a], ends[b], port) for a, b, port, _ in OPEN), each["metadata"]["name"]


def test_names_are_looked_up_over_both_protocols(policies: list[Manifest], ends: dict[str, End]) -> None:
    for name in ("worker", "submitter", "redis"):
        for protocol in ("UDP", "TCP"):
            assert allowed(policies, ends[name], ends["dns"], 53, protocol)
        assert not allowed(policies, ends[name], ends["internet"], 53, "UDP")


def test_without_the_autoscaler_nobody_asks_the_api_server(ends: dict[str, End]) -> None:
    document = load_profile("gpu").model_dump() | {"autoscale": False}
    document["network"]["store_cidrs"] = ["52.216.0.0/15"]
    found = [each for each in platform(Profile.model_validate(document)) if each["kind"] == "NetworkPolicy"]
    assert not allowed(found, ends["head"], ends["api server"], 443)


def test_another_redis_is_reached_where_it_is_and_nowhere_else(ends: dict[str, End]) -> None:
    profile = load_profile(
        "gpu",
        ["fault_tolerance={redis: address, address: 'redis.example:6380', cidrs: [10.9.0.0/16]}"],
    )
    found = [each for each in platform(profile) if each["kind"] == "NetworkPolicy"]
    assert allowed(found, ends["head"], End(address="10.9.3.3", outside=True), 6380)
    assert not allowed(found, ends["head"], End(address="10.8.3.3", outside=True), 6380)
    assert not allowed(found, ends["worker"], End(address="10.9.3.3", outside=True), 6380)
