"""Questions to Ray and Ray Serve, and their answers in our terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import InfraError, find_raymill_error
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
    """``gpu`` where the engines should get one and, unless said otherwise, the cluster has any; else ``cpu``."""
    import ray

    wanted = config.gpus
    has = ray.cluster_resources().get("GPU", 0) > 0
    return "gpu" if (has if wanted is None else wanted > 0) else "cpu"


def gpus(config: EngineConfig, device: str) -> float:
    """GPUs of one engine."""
    return (1.0 if device == "gpu" else 0.0) if config.gpus is None else config.gpus


def serve_controller() -> Any:
    """Ray Serve's controller actor; raises ValueError where Serve does not run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


def serve_runs() -> bool:
    """Whether this Ray has a Ray Serve already."""
    try:
        serve_controller()
    except ValueError:
        return False
    return True


def running(names: list[str]) -> bool:
    """Whether Serve counts every one of these applications as up."""
    return _states(names) == dict.fromkeys(names, "RUNNING")


def given_up(names: list[str]) -> InfraError | None:
    """The error where Serve has given one of these applications up."""
    failed = [name for name, state in _states(names).items() if state == "DEPLOY_FAILED"]
    if not failed:
        return None
    return InfraError(
        "an engine's replica ended while it started",
        where=f"serving: {', '.join(failed)}",
        next_step="repeat; `raymill doctor` says whether memory is short",
        attempts=tuple(messages(failed)),
    )


def _states(names: list[str]) -> dict[str, str]:
    from ray import serve

    return {name: state.status.value for name, state in serve.status().applications.items() if name in names}


def messages(names: list[str]) -> Iterator[str]:
    """What Serve has to say of applications, a line for each deployment."""
    from ray import serve

    for name, state in serve.status().applications.items():
        if name in names:
            for deployment in state.deployments.values():
                yield f"{name}: {state.status.value}: {deployment.message or state.message}"


def free_resources() -> list[str]:
    """CPUs and GPUs that are free, in words."""
    import ray

    free, all_ = ray.available_resources(), ray.cluster_resources()
    return [f"{free.get(kind, 0):g} of {all_[kind]:g} {kind} free" for kind in ("CPU", "GPU") if kind in all_]
