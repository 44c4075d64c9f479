"""What a deployment's controller is started with, and started with again after it was killed. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NAMESPACE = "raymill"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """What does not change while a deployment runs.

    Attributes:
        name: the deployment's name.
        store_url: where models are.
        state_url: where the deployment's state is kept; the same store but for exercises.
        host: the public address to listen on; ``admin_port`` is on loopback always.
        gateways: gateway processes on a node.
        key: the bearer token between gateways and engines.
        device: what engines run on, ``cpu`` or ``gpu``.
        engine_host: the address that engines listen on; empty for their node's own.
        logs: folder for the engines' output.
        commands: engine name, or ``*`` for any other -> another command line than vLLM's, for tests.
        attended: whether the deployment ends when nobody asks after it any more (its owner was killed).
        started_by: who started it, for the endpoint's record; ``pid`` and ``machine`` are of its owner, if any.
        started_serve: whether Ray Serve was started for it.
    """

    name: str
    store_url: str
    state_url: str
    host: str
    port: int
    admin_port: int
    gateways: int
    key: str = field(repr=False)
    device: str = "cpu"
    engine_host: str = "127.0.0.1"
    logs: str = ""
    commands: Mapping[str, list[str]] = field(default_factory=dict)
    attended: bool = True
    started_by: str = ""
    pid: int = 0
    machine: str = ""
    started_serve: bool = False

    @property
    def controller(self) -> str:
        """The controller actor's name."""
        return controller_name(self.name)

    @property
    def prefix(self) -> str:
        """How the names of this deployment's applications begin."""
        return application_prefix(self.name)

    def application(self, engine: str) -> str:
        """The name of an engine's Serve application."""
        return f"{self.prefix}{engine}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can call."""
        return self.host in LOOPBACK


def controller_name(deployment: str) -> str:
    """A deployment's controller actor; names of its gateways begin with it and a colon."""
    return f"raymill-{deployment}"


def application_prefix(deployment: str) -> str:
    """How the names of a deployment's Serve applications begin; those of no other one do."""
    return f"{deployment}:"


def url_host(host: str) -> str:
    """How an address is written in a URL that works here."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable
