"""What a cluster can hold: asked before workers are started, since Ray waits for ever for what it never gets."""

from __future__ import annotations

from cluster.errors import UserError


def require_resources(
    workers: int, where: str, *, cpus: float = 1, gpus: float = 0, gpu_advice: str | None = None
) -> None:
    """Refuse more workers than the cluster that is connected to can ever hold at once.

    Args:
        where: the recipe section whose key ``workers`` says how many there are.
        cpus: logical CPUs of one worker.
        gpus: GPUs of one worker.
        gpu_advice: what else helps where there are too few GPUs; by default to add nodes.

    Raises:
        UserError: saying what the cluster has.
    """
    import ray

    has = ray.cluster_resources()
    for resource, each, advice in (("CPU", cpus, None), ("GPU", gpus, gpu_advice)):
        needed, available = workers * each, float(has.get(resource, 0.0))
        if needed > available:
            raise UserError(
                f"{workers} workers need {needed:g} {resource}s, the cluster has {available:g}",
                where=f"{where}.workers",
                next_step=f"lower {where}.workers, {advice or 'or add nodes'}",
            )
