"""What a deployment's controller is started with, and started with again after it was killed. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.errors import UserError
from serving.config import LOOPBACK, ServingConfig

NAMESPACE = "raymill"


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
        logs: folder for the engines' output.
        commands: engine name, or ``*`` for any other -> another command line than vLLM's, for tests.
        attended: whether the deployment ends when nobody asks after it any more (its owner was killed).
        started_by: who started it, for the endpoint's record; ``pid`` and ``machine`` are of its owner, if any.
        started_serve: whether Ray Serve was started for it.
        deployed_at: when, seconds since the epoch; a controller that is started again has the same.
        takes_over: another cluster may serve it still, and is about to go.
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
    logs: str = ""
    commands: Mapping[str, list[str]] = field(default_factory=dict)
    attended: bool = True
    started_by: str = ""
    pid: int = 0
    machine: str = ""
    started_serve: bool = False
    deployed_at: float = 0.0
    takes_over: bool = False

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


def require_same_address(settings: Settings, config: ServingConfig) -> None:
    """Refuse a recipe that would have a running deployment listen elsewhere: what listens stays as it was started.

    Raises:
        UserError: host, ports or the number of gateways differ. Port 0, any free one, is every port.
    """
    wanted = {"host": config.host, "gateways": config.gateways}
    wanted |= {name: port for name in ("port", "admin_port") if (port := getattr(config, name)) != 0}
    changed = [name for name, value in wanted.items() if value != getattr(settings, name)]
    if changed:
        was = ", ".join(f"{name} {getattr(settings, name)}" for name in changed)
        now = ", ".join(f"{name} {wanted[name]}" for name in changed)
        raise UserError(
            f"it runs with {was}, and the recipe says {now}",
            where=", ".join(f"serving.{name}" for name in changed),
            next_step=f"`raymill undeploy --deployment {settings.name}` and serve it again, or put the recipe back",
        )


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
