"""What a replica tells the controller every other second, what it is told in return, and their names for models.

A replica refuses by the names that it announces: an engine's own for its base weights, an adapter's for an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.control.state import ModelSource

ANNOUNCE_S = 2.0
"""Between two announcements."""


@dataclass(frozen=True)
class Announcement:
    """One engine that answers.

    Attributes:
        replica: the Serve replica that supervises it.
        engine: the engine's name.
        address: its base URL.
        node: the Ray node it runs on.
        pid: the vLLM server's process id there; ``pids`` are all processes that came with it.
        started: seconds since the epoch.
        log: the file with its output, on that node.
        models: the names that have answered a warm-up: the engine's own, then its adapters'.
    """

    replica: str
    engine: str
    address: str
    node: str
    pid: int
    pids: tuple[int, ...]
    started: float
    log: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orders:
    """The answer to an announcement.

    Attributes:
        adapters: what the engine should hold beside its base weights: engine model name -> adapter.
        drain_seconds: how long requests in flight may take when the replica is to go.
        served: how often the deployment was served; with every time, adapters that were refused are tried again.
        controller_since: when the controller that says so began, in seconds since the epoch. One that began anew does
            not know what was refused, and is told again.
    """

    adapters: Mapping[str, ModelSource]
    drain_seconds: float
    served: int
    controller_since: float
