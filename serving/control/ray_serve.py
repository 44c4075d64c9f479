"""Questions to Ray and Ray Serve, and their answers in our terms."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import InfraError, find_raymill_error
from serving.config import EngineConfig
from serving.control.reconcile import Application, first_target
from serving.control.state import EngineState

CALL_TIMEOUT_S = 60.0
HEALTH_PERIOD_S = 2.0
DEPLOYMENT = "engine"
"""Every application has this one deployment."""


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


def applications(prefix: str) -> dict[str, Application]:
    """Engine -> its application, of the deployment whose applications' names begin so."""
    import ray

    details = ray.get(serve_controller().get_serve_instance_details.remote(), timeout=CALL_TIMEOUT_S)
    found = {}
    for name, each in details["applications"].items():
        if name.startswith(prefix):
            engine, deployments = name.removeprefix(prefix), each.get("deployments", {})
            own = deployments.get(DEPLOYMENT, {})
            message = own.get("message") or each.get("message") or ""
            target = int(own.get("target_num_replicas", 0))
            members = own.get("replicas", ())
            replicas = frozenset(str(replica["replica_id"]) for replica in members)
            leaving = frozenset(
                str(replica["actor_name"])
                for replica in members
                if _text(replica["state"]) == "STOPPING" and replica["actor_name"]
            )
            found[engine] = Application(engine, _text(each["status"]), target, message, replicas, leaving)
    return found


def applications_left(prefix: str) -> dict[str, Application]:
    """As :func:`applications`, for an end: where Serve does not run, none is left."""
    return applications(prefix) if serve_runs() else {}


def run_application(name: str, arguments: Mapping[str, Any], engine: EngineState, device: str, grace_s: float) -> None:
    """Start an engine's application; returns at once.

    Args:
        arguments: the replica's.
        grace_s: how long a replica may take to end.
    """
    from ray import serve

    from serving.engines.replica import EngineReplica

    config = engine.config
    deployment = serve.deployment(EngineReplica).options(
        name=DEPLOYMENT,
        num_replicas=first_target(engine),
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": gpus(config, device)},
        # Until one has run, so many may die in their start; what vLLM refuses, the controller removes at once.
        max_constructor_retry_count=3,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=grace_s,
    )
    target = serve.RunTarget(
        target=deployment.bind(**arguments), name=name, route_prefix=None, external_scaler_enabled=True
    )
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def set_replicas(name: str, target: int) -> None:
    """Change an application's number of replicas; none that stays is restarted."""
    import ray
    from ray.serve._private.common import DeploymentID

    asked = serve_controller().update_deployment_replicas.remote(DeploymentID(DEPLOYMENT, name), target)
    ray.get(asked, timeout=CALL_TIMEOUT_S)


def end_replica(actor: str) -> None:
    """Kill a replica's actor, where it is still there."""
    import ray
    from ray.serve._private.constants import SERVE_NAMESPACE

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(actor, namespace=SERVE_NAMESPACE))


def remove_applications(names: Sequence[str], *, wait: bool) -> None:
    """Remove applications; their replicas finish what they do first."""
    if not names:
        return
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    if client is not None:
        client.delete_apps(list(names), blocking=wait)


def end_serve() -> None:
    """End Ray Serve where it runs no application any more.

    Not by serve.shutdown(): its last call dies with the controller, which Ray reports on standard error.
    """
    import ray

    try:
        if not applications(""):
            ray.kill(serve_controller())
    except ValueError:  # it is gone already
        return


def start_serve() -> bool:
    """Start Ray Serve without its HTTP proxy where it does not run; whether that was so."""
    import logging

    from ray import serve

    fresh = not serve_runs()
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "ERROR"})
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # starting Serve has set it anew
    return fresh


def died_starting(application: Application) -> InfraError:
    """The error for an engine whose replicas ended again and again before they were up."""
    return InfraError(
        "an engine's replica ended while it started",
        where=f"serving: engine {application.engine}",
        next_step="repeat; `raymill doctor` says whether memory is short",
        attempts=(application.message,) if application.message else (),
    )


def _text(status: Any) -> str:
    return str(getattr(status, "value", status))


def free_resources() -> list[str]:
    """CPUs and GPUs that are free, in words."""
    import ray

    free, all_ = ray.available_resources(), ray.cluster_resources()
    return [f"{free.get(kind, 0):g} of {all_[kind]:g} {kind} free" for kind in ("CPU", "GPU") if kind in all_]
