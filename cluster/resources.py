"""What a cluster can hold: asked before workers are started, since Ray waits for ever for what it never gets."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.errors import InfraError, UserError

UNEXPECTED = 2
"""Ray's number for the end of a node that nobody asked for (NodeDeathInfo)."""


def require_resources(
    workers: int,
    where: str,
    *,
    cpus: float = 1,
    gpus: float = 0,
    gpu_advice: str | None = None,
    has: Mapping[str, float] | None = None,
) -> None:
    """Refuse more workers than the cluster that is connected to can hold at once.

    Args:
        where: the recipe section whose key ``workers`` says how many there are.
        cpus: logical CPUs of one worker.
        gpus: GPUs of one worker.
        gpu_advice: what else helps where there are too few GPUs; by default to add nodes.
        has: what a cluster that is not connected to will have; resources that it does not name are not looked at.

    Raises:
        UserError: it can never hold them; saying what the cluster has.
        InfraError: it cannot since it lost nodes.
    """
    connected = has is None
    if has is None:
        import ray

        has = {"CPU": 0.0, "GPU": 0.0} | ray.cluster_resources()
    for resource, each, advice in (("CPU", cpus, None), ("GPU", gpus, gpu_advice)):
        needed, available = workers * each, float(has.get(resource, math.inf))
        if needed <= available:
            continue
        what = f"{workers} workers need {needed:g} {resource}s, the cluster has {available:g}"
        if connected and (lost := lost_nodes()):
            raise InfraError(
                f"{what} since it lost {', '.join(lost)}",
                where=f"{where}.workers",
                next_step="start the nodes again, or others; then repeat the command: it continues",
            )
        raise UserError(
            what,
            where=f"{where}.workers",
            next_step=f"lower {where}.workers, {advice or 'or add nodes'}",
        )


def lost_nodes() -> list[str]:
    """Names of the nodes of the cluster that ended unasked and are not there again; Ray does not say what they had."""
    import ray

    nodes = ray.nodes()
    alive = {node["NodeName"] for node in nodes if node["Alive"]}
    dead = {node["NodeName"] for node in nodes if not node["Alive"] and node["DeathReason"] == UNEXPECTED}
    return sorted(dead - alive)
