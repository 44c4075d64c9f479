"""Who may talk to whom. The first policy denies everything; each of the others opens one way, with its reason.

A policy cannot say "of the same cluster", so pods of all clusters in the namespace reach each other; between them
stands Ray's token.
"""

from __future__ import annotations

from collections.abc import Iterable

from k8s.cluster_profile import Profile
from k8s.names import HEAD, PORTS, REDIS, REDIS_PORT, SUBMITTER, WORKER, Manifest, metadata, selector

RAY = (HEAD, WORKER)
METRICS = (PORTS["metrics"], PORTS["as-metrics"], PORTS["dash-metrics"])


def policies(profile: Profile) -> list[Manifest]:
    """All NetworkPolicies of the namespace; none where the profile leaves them to another tool."""
    if not profile.network.policies:
        return []
    network = profile.network
    ray, head = selector(*RAY), selector(HEAD)
    operator = _namespace(network.operator_namespace)
    dns = [*([_namespace(network.dns_namespace)]), *_networks(network.dns_cidrs)]
    found = [
        _policy(profile, "default-deny", "Nothing that no other policy allows.", {}, ingress=[], egress=[]),
        _policy(
            profile,
            "dns",
            "Names are looked up.",
            {},
            egress=[{"to": dns, "ports": [*_ports([53], "UDP"), *_ports([53])]}],
        ),
        _policy(
            profile,
            "ray",
            "Ray's processes reach each other on any port; they prove themselves with the token.",
            ray,
            ingress=[{"from": [{"podSelector": ray}]}],
            egress=[{"to": [{"podSelector": ray}]}],
        ),
        _policy(
            profile,
            "submitter",
            "A job's submitter calls the dashboard.",
            head,
            ingress=[{"from": [{"podSelector": selector(SUBMITTER)}], "ports": _ports([PORTS["dashboard"]])}],
        ),
        _policy(
            profile,
            "submitter-out",
            "The same, seen from the submitter.",
            selector(SUBMITTER),
            egress=[{"to": [{"podSelector": head}], "ports": _ports([PORTS["dashboard"]])}],
        ),
        _policy(
            profile,
            "operator",
            "KubeRay's operator asks after jobs, applications and the gateway's health.",
            head,
            ingress=[{"from": [operator], "ports": _ports([PORTS["dashboard"], profile.serving.port])}],
        ),
        _policy(
            profile,
            "prometheus",
            "Prometheus reads metrics.",
            ray,
            ingress=[
                {
                    "from": [_namespace(network.prometheus_namespace)],
                    "ports": _ports([*METRICS, profile.serving.port]),
                }
            ],
        ),
    ]
    if network.caller_namespaces:
        callers = [_namespace(name) for name in network.caller_namespaces]
        rule = {"from": callers, "ports": _ports([profile.serving.port])}
        found.append(_policy(profile, "callers", "Served models are called.", ray, ingress=[rule]))
    servers = [*_networks(network.store_cidrs), *map(_namespace, network.store_namespaces)]
    if servers:
        rule = {"to": servers, "ports": _ports(network.store_ports)}
        found.append(_policy(profile, "store", "Artifacts are read and written.", ray, egress=[rule]))
    if profile.autoscale:
        rule = {"to": _networks(network.api_server_cidrs), "ports": _ports(network.api_server_ports)}
        found.append(
            _policy(profile, "api-server", "The autoscaler, in the head's pod, asks for pods.", head, egress=[rule])
        )
    return found + _redis(profile)


def _redis(profile: Profile) -> list[Manifest]:
    tolerance = profile.fault_tolerance
    if tolerance.redis == "none":
        return []
    if tolerance.address is not None:
        port = int(tolerance.address.rpartition(":")[2])
        rule = {"ports": _ports([port])} | ({"to": _networks(tolerance.cidrs)} if tolerance.cidrs else {})
        return [_policy(profile, "redis-out", "Heads keep what they know in Redis.", selector(HEAD), egress=[rule])]
    redis, head = selector(REDIS), selector(HEAD)
    return [
        _policy(
            profile,
            "redis",
            "Heads keep what they know in Redis.",
            redis,
            ingress=[{"from": [{"podSelector": head}], "ports": _ports([REDIS_PORT])}],
        ),
        _policy(
            profile,
            "redis-out",
            "The same, seen from the heads.",
            head,
            egress=[{"to": [{"podSelector": redis}], "ports": _ports([REDIS_PORT])}],
        ),
    ]


def _policy(
    profile: Profile,
    name: str,
    reason: str,
    pods: Manifest,
    *,
    ingress: list[Manifest] | None = None,
    egress: list[Manifest] | None = None,
) -> Manifest:
    ways = {"Ingress": ingress, "Egress": egress}
    rules = {way.lower(): found for way, found in ways.items() if found}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(f"raymill-{name}", profile.namespace, annotations={"raymill/reason": reason}),
        "spec": {
            "podSelector": pods,
            "policyTypes": [way for way, found in ways.items() if found is not None],
            **rules,
        },
    }


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _networks(cidrs: Iterable[str]) -> list[Manifest]:
    return [{"ipBlock": {"cidr": each}} for each in cidrs]


def _ports(ports: Iterable[int], protocol: str = "TCP") -> list[Manifest]:
    return [{"protocol": protocol, "port": port} for port in ports]
