"""Why a job waits: which resource is missing on which nodes now, or what else it waits for."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.progress import duration

if TYPE_CHECKING:
    from cluster.jobs_api import JobDetails, JobsClient

SUPERVISOR = "_ray_internal_job_actor_"
"""How Ray calls the process that runs a job, before the job's id."""
GIB = 1 << 30
_BYTES = ("memory", "object_store_memory")


@dataclass(frozen=True)
class NodeResources:
    """One living node: what it has and what of it is in use, by resource."""

    name: str
    total: Mapping[str, float]
    used: Mapping[str, float]
    head: bool = False

    def free(self, resource: str) -> float:
        """What is left of a resource."""
        return self.total.get(resource, 0.0) - self.used.get(resource, 0.0)


@dataclass
class Explanation:
    """Why something waits.

    Attributes:
        reasons: in sentences, the decisive one first.
        advice: what to do about it.
    """

    reasons: list[str] = field(default_factory=list)
    advice: str = ""


@dataclass(frozen=True)
class ClusterView:
    """What a cluster says of itself at one moment.

    Attributes:
        demands: what waits for a place, as (resources, how many of it).
        starting: nodes that are being started; ``failed``: that could not be.
    """

    nodes: Sequence[NodeResources]
    demands: Sequence[tuple[Mapping[str, float], int]] = ()
    starting: Sequence[str] = ()
    failed: Sequence[str] = ()


def explain_pending(client: JobsClient, job: JobDetails) -> Explanation:
    """Why a job has not started yet."""
    supervisors = [actor for actor in _listed(client, "actors") if actor.get("name") == SUPERVISOR + job.id]
    view = view_of(client)
    waited = time.time() - (job.started_s or time.time())
    running = [other.id for other in client.jobs() if other.status == "RUNNING"]
    return explain(supervisors[-1] if supervisors else None, view, waited, running)


def explain_demands(client: JobsClient) -> list[str]:
    """What the stages of running jobs wait for, in sentences; empty where nothing waits."""
    view = view_of(client)
    found = []
    for needs, count in view.demands:
        verdict = explain({"required_resources": dict(needs)}, view, 0.0, [])
        found.append(f"{count} × {_amounts(needs)} wait for a place: {verdict.reasons[0]}")
    return found


def explain(
    supervisor: Mapping[str, Any] | None, view: ClusterView, waited_s: float, running: Sequence[str]
) -> Explanation:
    """Why a job waits, from what the cluster says.

    Args:
        supervisor: the actor that runs the job, as Ray's state API describes it; None where there is none yet.
        running: ids of the jobs that run.
    """
    if not view.nodes:
        return Explanation(["no node of the cluster is alive"], "start nodes: `raymill cluster status`")
    if supervisor is None:
        text = f"it was submitted {duration(waited_s)} ago and the cluster has not taken it up yet"
        return Explanation([text], "ask again; where it stays so, the head is overloaded or restarting")
    needs = {name: float(amount) for name, amount in (supervisor.get("required_resources") or {}).items()}
    found = Explanation()
    for name, amount in sorted(needs.items()):
        largest = max(node.total.get(name, 0.0) for node in view.nodes)
        if largest < amount:
            has = f"the most that one has is {_amount(name, largest)}" if largest else f"no node has any {name}"
            found.reasons.append(f"it needs {_amount(name, amount)} on one node, and {has}")
    if found.reasons:
        found.advice = "ask for less (--driver-cpus, the stage's workers), or add nodes that have it"
    elif needs:
        fitting = [node for node in view.nodes if all(node.total.get(n, 0.0) >= a for n, a in needs.items())]
        if not fitting:
            found.reasons.append(f"no single node has all of {_amounts(needs)}")
            found.advice = "ask for less, or add nodes that have it"
        elif not any(all(node.free(name) >= amount for name, amount in needs.items()) for node in fitting):
            lacking = ", ".join(f"{node.name} {_shares(node, needs)}" for node in fitting)
            found.reasons.append(f"it needs {_amounts(needs)}, and all is in use: {lacking}")
            if running:
                found.reasons.append(f"these run: {', '.join(running)}")
            found.advice = "wait, stop another job, or add nodes (`raymill cluster scale workers MIN:MAX`)"
    selector = supervisor.get("label_selector") or {}
    if not found.reasons and selector:
        wanted = ", ".join(f"{key}={value}" for key, value in selector.items())
        found.reasons.append(f"it may run only on the node with {wanted}, and its files are being set up there")
    if view.starting:
        found.reasons.append(f"nodes are being started: {', '.join(view.starting)}")
    if view.failed:
        found.reasons.append(f"nodes could not be started: {', '.join(view.failed)}")
    if not found.reasons:
        found.reasons.append(f"a node has room for it; it was submitted {duration(waited_s)} ago and is being set up")
    found.advice = found.advice or "ask again in a few seconds"
    return found


def view_of(client: JobsClient) -> ClusterView:
    """What the cluster says of its resources now."""
    status = (client.get("/api/cluster_status").get("data") or {}).get("clusterStatus") or {}
    load = status.get("loadMetricsReport") or {}
    scaler = status.get("autoscalerReport") or {}
    usage = load.get("usageByNode") or {}
    nodes = []
    for node in _listed(client, "nodes"):
        if node.get("state") != "ALIVE":
            continue
        used = {key: pair[0] for key, pair in (usage.get(node["node_id"]) or {}).items()}
        total = {str(key): float(value) for key, value in node["resources_total"].items()}
        in_use = {key: float(used.get(_camel(key), 0.0)) for key in total}
        nodes.append(NodeResources(node.get("node_name") or node["node_ip"], total, in_use, bool(node["is_head_node"])))
    demands = [({k: float(v) for k, v in needs.items()}, int(n)) for needs, n in load.get("resourceDemand") or []]
    starting = [f"{count} {kind}" for kind, count in (scaler.get("pendingLaunches") or {}).items()]
    starting += [str(item[1] if isinstance(item, list) else item) for item in scaler.get("pendingNodes") or []]
    failed = [str(item[-1] if isinstance(item, list) else item) for item in scaler.get("failedNodes") or []]
    return ClusterView(nodes, demands, starting, failed)


def _listed(client: JobsClient, kind: str) -> list[dict[str, Any]]:
    """All entries of a kind from Ray's state API."""
    found: list[dict[str, Any]] = client.get(f"/api/v0/{kind}?detail=1&limit=10000")["data"]["result"]["result"]
    return found


def _camel(name: str) -> str:
    """How the dashboard spells a resource's name."""
    return re.sub(r"_+([a-z0-9])", lambda match: match.group(1).upper(), name.rstrip("_"))


def _amount(name: str, amount: float) -> str:
    return f"{amount / GIB:.1f} GiB {name}" if name in _BYTES else f"{amount:g} {name}"


def _amounts(needs: Mapping[str, float]) -> str:
    return " and ".join(_amount(name, amount) for name, amount in sorted(needs.items())) or "a place"


def _shares(node: NodeResources, needs: Mapping[str, float]) -> str:
    return " ".join(f"{node.used.get(name, 0.0):g}/{node.total.get(name, 0.0):g} {name}" for name in sorted(needs))
