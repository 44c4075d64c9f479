"""What a deployment is at the moment, as the controller last wrote it for commands that have no connection to Ray."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import InfraError
from cluster.store import Store
from serving.config import replica_bounds
from serving.control.endpoint import FOLDER

POLL_SECONDS = 0.1

VariantPhase = Literal["ready", "starting", "asleep", "failed"]


class GatewayStatus(StrictModel):
    """One gateway process.

    Attributes:
        version: of the state that it works by; -1 before the first, and while it does not answer.
        requests: begun since it started.
        dropped: observations lost since it started, because the controller did not take them in time.
    """

    name: str
    node: str = ""
    pid: int = 0
    port: int = 0
    version: int = -1
    requests: int = 0
    dropped: int = 0


class ReplicaStatus(StrictModel):
    """One vLLM server that answers.

    Attributes:
        started: seconds since the epoch.
        models: the names that it answers to.
        ongoing: requests in flight, over all gateways.
    """

    pid: int
    address: str
    node: str = ""
    log: str = ""
    started: float = 0.0
    models: tuple[str, ...] = ()
    ongoing: int = 0


class EngineStatus(StrictModel):
    """One Serve application.

    Attributes:
        wanted: the bounds, ``2`` or ``1:4``.
        target: how many servers are wanted now; 0 also where the application is not there yet.
        refusal: why its servers do not start; empty where they do.
    """

    name: str
    variants: tuple[str, ...] = ()
    wanted: str = ""
    target: int = 0
    replicas: tuple[ReplicaStatus, ...] = ()
    refusal: str = ""

    @property
    def standing(self) -> str:
        """How many of its servers answer, in words: ``1 of 2 ready, 1 is starting``."""
        ready = len(self.replicas)
        target = max(self.target, replica_bounds(self.wanted)[0] if self.wanted else 0)
        if not target and not ready:
            return "asleep"
        if ready > target:
            return f"{ready} ready, {target} wanted"
        missing = target - ready
        if not missing:
            return f"{ready} of {target} ready"
        if self.refusal:
            return f"{ready} of {target} ready, {missing} {'does' if missing == 1 else 'do'} not come up"
        return f"{ready} of {target} ready, {missing} {'is' if missing == 1 else 'are'} starting"


class VariantStatus(StrictModel):
    """One variant; ``reason`` says why where it is not ready."""

    name: str
    weight: float
    share: float
    state: VariantPhase
    reason: str = ""


class DeploymentStatus(StrictModel):
    """Everything above, written when something changed.

    Attributes:
        version: of the state that the controller works by.
        rollout: the running rollout's summary.
        problems: what does not work at the moment beside engines, such as a store that cannot be read.
        written_at: seconds since the epoch.
    """

    version: int
    gateways: tuple[GatewayStatus, ...] = ()
    engines: tuple[EngineStatus, ...] = ()
    variants: tuple[VariantStatus, ...] = ()
    rollout: dict[str, Any] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()
    written_at: float = 0.0

    def gateways_at(self, version: int) -> int:
        """How many gateways work by a version, or a later one."""
        return sum(gateway.version >= version for gateway in self.gateways)

    def applied(self, version: int) -> bool:
        """Whether the controller and every gateway work by a version, or a later one."""
        return bool(self.gateways) and self.version >= version and self.gateways_at(version) == len(self.gateways)


def status_key(name: str) -> str:
    """Where the status of a deployment is."""
    return f"{FOLDER}/{name}/status.json"


def write(store: Store, name: str, status: DeploymentStatus) -> None:
    """Replace the status."""
    store.write(status_key(name), status.model_dump_json(indent=1).encode())


def read(store: Store, name: str) -> DeploymentStatus | None:
    """The last status; None where none was written, or another release wrote one that cannot be read."""
    try:
        return DeploymentStatus.model_validate_json(store.read(status_key(name)))
    except (FileNotFoundError, ValidationError):
        return None


def remove(store: Store, name: str) -> None:
    """Take the status away; nobody serves the deployment any more."""
    store.delete(status_key(name))


def wait_applied(store: Store, name: str, version: int, timeout_seconds: float) -> float:
    """Wait until every gateway works by a version; the seconds that it took.

    Raises:
        InfraError: they do not after ``timeout_seconds``; the message says which.
    """
    began = time.monotonic()
    while True:
        status = read(store, name)
        waited = time.monotonic() - began
        if status is not None and status.applied(version):
            return waited
        if waited >= timeout_seconds:
            raise InfraError(
                f"version {version} is written, but not everywhere after {waited:.0f} s: {_behind(status, version)}",
                where=f"deployment {name}",
                next_step="it takes effect by itself once the controller is back; docs/runbook.md says what to look at",
            )
        time.sleep(POLL_SECONDS)


def _behind(status: DeploymentStatus | None, version: int) -> str:
    if status is None:
        return "the controller has written no status"
    late = [f"{each.name} on {each.node} has {each.version}" for each in status.gateways if each.version < version]
    if status.version < version:
        late.insert(0, f"the controller has {status.version}")
    return ", ".join(late) or "no gateway listens"
