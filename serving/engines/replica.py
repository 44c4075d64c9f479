"""A Ray Serve replica that supervises one vLLM server.

Serve is the control plane: it places, scales, health-checks and replaces replicas. The replica announces its server's
address and gateways go there directly (docs/decisions.md, "Requests do not cross Ray Serve").
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from cluster.errors import RaymillError
from serving.control.controller import Announcement
from serving.engines.process import EngineProcess
from serving.engines.spec import EngineSpec

WATCH_INTERVAL_S = 0.1


class EngineReplica:
    """Started by Serve; ready when its engine has answered a request for every model on it.

    Args:
        spec: what to serve.
        controller: the deployment's controller actor.
        key: the token that requests to the engine must carry.
        gateway_nodes: Ray nodes that gateways run on; where it is only this one, the engine listens on loopback.
        logs: folder for the engine's output.
        command: another command line; see :class:`serving.engines.process.EngineProcess`.

    Raises:
        UserError: vLLM refuses the model.
        InfraError: the engine was not ready in time.
    """

    # Serve may call __del__ while __init__ still waits for the engine.
    _process: EngineProcess | None = None
    _announcement: Announcement | None = None
    _watcher: asyncio.Task[None] | None = None

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self,
        spec: EngineSpec,
        controller: Any,
        key: str,
        gateway_nodes: tuple[str, ...],
        logs: str,
        command: list[str] | None = None,
    ) -> None:
        import ray
        from ray import serve

        self._spec, self._controller = spec, controller
        node = ray.get_runtime_context().get_node_id()
        replica = serve.get_replica_context().replica_tag
        host = "127.0.0.1" if set(gateway_nodes) == {node} else ray.util.get_node_ip_address()
        log = Path(logs) / f"engine-{spec.name}-{replica}.log"
        self._process = process = EngineProcess(spec, host, key, log, command)
        try:
            await process.start()
        except RaymillError as error:
            await controller.refuse.remote(spec.name, error)
            raise
        self._announcement = Announcement(
            replica=replica,
            engine=spec.name,
            address=process.address,
            node=node,
            pid=process.pid,
            pids=tuple(process.pids),
            started=process.started,
            log=str(log),
        )
        await controller.announce.remote(self._announcement)
        self._watcher = asyncio.create_task(self._watch(process, replica))

    async def _watch(self, process: EngineProcess, replica: str) -> None:
        """Say at once that the engine is gone; Serve notices with its next health checks and replaces the replica."""
        while process.alive():
            await asyncio.sleep(WATCH_INTERVAL_S)
        await self._controller.withdraw.remote(replica)

    async def check_health(self) -> None:
        """Called by Serve every few seconds; raises where the engine does not answer."""
        if self._process is None or not await self._process.healthy():
            raise RuntimeError(f"the engine of {', '.join(self._spec.variants)} does not answer")
        await self._controller.announce.remote(self._announcement)

    async def __call__(self) -> str:
        """The engine's address."""
        return self._process.address if self._process else ""

    async def __del__(self) -> None:
        """Called by Serve when the replica is to go."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._announcement is not None:
            with contextlib.suppress(Exception):  # the controller may be gone before its replicas
                await self._controller.withdraw.remote(self._announcement.replica)
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
