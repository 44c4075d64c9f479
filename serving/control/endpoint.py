"""Where a deployment answers: one record in the store while it is served."""

from __future__ import annotations

import socket

from pydantic import ValidationError

from cluster.config import StrictModel
from cluster.errors import UserError
from cluster.store import Store
from serving.control.names import check_name

FOLDER = "deployments"


class Endpoint(StrictModel):
    """``<store>/deployments/<name>.json``.

    Attributes:
        url: of the public API, without ``/v1``.
        admin_url: of the admin calls, on loopback of the gateways' nodes.
        ray_address: of the cluster that it runs on.
        started_at: seconds since the epoch.
        started_by: the user.
        pid: of the process that serves in the foreground; 0 where it is detached.
        host: the machine of that process, as ``socket.gethostname()`` says it.
        deployed_at: seconds since the epoch; of two clusters that serve it, the later one decides.
    """

    name: str
    url: str
    admin_url: str
    ray_address: str
    started_at: float
    started_by: str
    pid: int = 0
    host: str = ""
    deployed_at: float = 0.0


def endpoint_key(name: str) -> str:
    """Where the record of a deployment is."""
    return f"{FOLDER}/{check_name(name)}.json"


def write_endpoint(store: Store, endpoint: Endpoint) -> None:
    """Say where a deployment answers, in place of what was said before."""
    store.write(endpoint_key(endpoint.name), endpoint.model_dump_json(indent=1).encode())


def read_endpoint(store: Store, name: str) -> Endpoint | None:
    """Where a deployment answers; None where nobody serves it.

    Raises:
        UserError: the record cannot be read.
    """
    key = endpoint_key(name)
    try:
        return Endpoint.model_validate_json(store.read(key))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(
            f"the record of the endpoint is damaged: {error.errors()[0]['msg']}",
            where=store.uri(key),
            next_step=f"remove it with `raymill undeploy --deployment {name} --force`, and serve again",
        ) from None


def is_abandoned(endpoint: Endpoint) -> bool:
    """Whether the record is that of a foreground process of this machine that is gone, and took its Ray with it."""
    import psutil

    return bool(endpoint.pid) and endpoint.host == socket.gethostname() and not psutil.pid_exists(endpoint.pid)


def owned_by(endpoint: Endpoint, pid: int, host: str, ray_address: str) -> bool:
    """Whether a record is that of this foreground process, or (``pid`` 0) of the detached deployment of this Ray."""
    return (endpoint.pid, endpoint.host) == (pid, host) and (pid != 0 or endpoint.ray_address == ray_address)


def remove_endpoint(store: Store, name: str) -> None:
    """Nobody serves the deployment any more."""
    store.delete(endpoint_key(name))
