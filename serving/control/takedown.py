"""How a deployment ends: by its controller, or by hand where that is dead."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from cluster.errors import UserError
from serving.control import ray_serve
from serving.control.endpoint import Endpoint
from serving.control.records import forget, served_elsewhere
from serving.control.settings import NAMESPACE, Settings

if TYPE_CHECKING:
    from cluster.store import Store

END_S = 60.0
"""For engines and applications to end, after the answers in flight had their time."""


def take_down(settings: Settings, store: Store, controller: Any, drain_seconds: float) -> None:
    """End a deployment; whatever of it still runs afterwards is ended by name."""
    import ray
    from ray.serve.exceptions import RayServeException

    gone = (ray.exceptions.RayError, RayServeException, TimeoutError, ConnectionError, ValueError)
    if controller is not None:
        with contextlib.suppress(*gone):
            ray.get(controller.stop.remote(drain_seconds), timeout=drain_seconds + END_S)
    with contextlib.suppress(*gone):
        remove_actors(settings.controller)
    with contextlib.suppress(*gone):
        left = [settings.application(name) for name in ray_serve.applications(settings.prefix)]
        ray_serve.remove_applications(left, wait=True)
    if settings.started_serve:
        with contextlib.suppress(*gone):
            ray_serve.end_serve()
    forget(store, settings.name, settings.pid, settings.machine, ray.get_runtime_context().gcs_address)


def remove_actors(controller: str) -> None:
    """End a controller and its gateways, by name."""
    import ray

    for each in ray.util.list_named_actors(all_namespaces=True):
        own = each["name"] == controller or each["name"].startswith(f"{controller}:")
        if each["namespace"] == NAMESPACE and own:
            with contextlib.suppress(ValueError):  # it ended meanwhile
                ray.kill(ray.get_actor(each["name"], namespace=NAMESPACE))


def remove(store: Store, name: str, endpoint: Endpoint) -> None:
    """End what is left of a deployment whose controller does not answer, on the cluster that its record names.

    Raises:
        UserError: a process serves it in the foreground, here or on another machine, and lives.
        InfraError: the cluster cannot be joined.
    """
    from cluster.session import ClusterConfig, connect
    from serving.control.settings import application_prefix, controller_name

    if endpoint.pid:
        where = served_elsewhere(store, name, time.time())
        if where:
            raise UserError(
                f"it is served {where}",
                where=f"deployment {name}",
                next_step=f"`raymill undeploy --deployment {name}` waits for its end; or end that process on "
                f"{endpoint.host}: everything that it started goes with it",
            )
        return  # its Ray went with it
    with connect(ClusterConfig(address=endpoint.ray_address)):
        remove_actors(controller_name(name))
        left = list(ray_serve.applications_left(application_prefix(name)))
        ray_serve.remove_applications([application_prefix(name) + engine for engine in left], wait=True)
