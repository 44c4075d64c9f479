"""What a replica tells the controller with every health check, and the names that the two use for models.

The controller's answer to an announcement is what the engine should hold beside its base weights: engine model name
-> adapter. A replica refuses by the same names: an engine's own name for its base weights, an adapter's for an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass


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
