"""Which processes of this machine a deployment started, so that its end can check that none is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

EXIT_GRACE_S = 10.0


class ProcessLedger:
    """Process ids of engines on this node, each with its start time: an id that was used anew is another process."""

    def __init__(self) -> None:
        self._started: dict[int, float] = {}

    def add(self, node: str, pids: Iterable[int]) -> None:
        """Remember processes; those of other Ray nodes are left to their minders."""
        import psutil
        import ray

        if node == ray.get_runtime_context().get_node_id():
            for pid in set(pids) - set(self._started):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._started[pid] = psutil.Process(pid).create_time()

    def end(self) -> None:
        """Wait for them to go, and kill by id those that stay."""
        import psutil

        alive = []
        for pid, started in self._started.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() == started:
                    alive.append(process)
        _, alive = psutil.wait_procs(alive, timeout=EXIT_GRACE_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=EXIT_GRACE_S)
