"""Questions to Ray and Ray Serve, and their answers in our terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import find_raymill_error
from serving.config import EngineConfig

CALL_TIMEOUT_S = 60.0


def get(reference: Any) -> Any:
    """``ray.get`` with a limit, and with our own errors instead of Ray's wrappers around them."""
    import ray

    try:
        return ray.get(reference, timeout=CALL_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        known = find_raymill_error(error)
        if known is not None:
            raise known from None
        raise


def device(config: EngineConfig) -> str:
    import ray

    wanted = config.gpus
    has = ray.cluster_resources().get("GPU", 0) > 0
    return "gpu" if (has if wanted is None else wanted > 0) else "cpu"


def gpus(config: EngineConfig, device: str) -> float:
    return (1.0 if device == "gpu" else 0.0) if config.gpus is None else config.gpus


def serve_controller() -> Any:
    """Ray Serve's controller actor; raises ValueError where Serve does not run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


def serve_runs() -> bool:
    try:
        serve_controller()
    except ValueError:
        return False
    return True


def application_messages(names: list[str]) -> Iterator[str]:
    from ray import serve

    for name, status in serve.status().applications.items():
        if name in names:
            for deployment in status.deployments.values():
                yield f"{name}: {status.status.value}: {deployment.message or status.message}"


def free_resources() -> list[str]:
    import ray

    free, all_ = ray.available_resources(), ray.cluster_resources()
    return [f"{free.get(kind, 0):g} of {all_[kind]:g} {kind} free" for kind in ("CPU", "GPU") if kind in all_]
