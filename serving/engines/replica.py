"""A Ray Serve replica that supervises one vLLM server.

Serve is the control plane: it places, scales, health-checks and replaces replicas. The replica announces its server's
address and gateways go there directly (docs/decisions.md, "Requests do not cross Ray Serve").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import RaymillError
from cluster.store import open_store
from serving.engines import resolve
from serving.engines.adapters import AdapterShelf
from serving.engines.announcement import Announcement
from serving.engines.process import EngineProcess
from serving.engines.spec import ServerSpec

if TYPE_CHECKING:
    from serving.control.state import EngineState, ModelSource

WATCH_INTERVAL_S = 0.1
CALL_TIMEOUT_S = 5.0
REFUSAL_TRIES = 4
QUIET_POLLS = 3
"""So many times in a row nobody may be answered any more: a request can be on its way from a gateway."""


class EngineReplica:
    """Started by Serve; ready when its engine's base weights have answered a request. Adapters follow while it runs.

    Calls to the controller may fail or take long, as it may just be restarted: they never decide about health.

    Args:
        engine: what to serve.
        device: ``cpu`` or ``gpu``.
        store_url: the store that model sources are in.
        controller: the deployment's controller actor. It is told ``announce``, ``withdraw`` and ``refuse``, and asked
            ``in_flight``.
        key: the token that requests to the engine must carry.
        host: the address to listen on; empty for the node's own.
        logs: folder for the engine's output.
        command: another command line; see :class:`serving.engines.process.EngineProcess`.
        drain_seconds: how long requests in flight may take when the replica is to go.

    Raises:
        UserError: the model is not there, or vLLM refuses it.
        InfraError: the engine was not ready in time.
    """

    # Serve may call __del__ while __init__ still waits for the engine.
    _process: EngineProcess | None = None
    _announcement: Announcement | None = None
    _watcher: asyncio.Task[None] | None = None
    _talk: asyncio.Task[None] | None = None
    _adapting: asyncio.Task[None] | None = None
    _hung = False

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self,
        engine: EngineState,
        device: str,
        store_url: str,
        controller: Any,
        key: str,
        host: str,
        logs: str,
        command: list[str] | None = None,
        drain_seconds: float = 30.0,
    ) -> None:
        import ray
        from ray import serve

        self._engine, self._controller, self._drain_seconds = engine, controller, drain_seconds
        replica = serve.get_replica_context().replica_tag
        log = Path(logs) / f"engine-{engine.name}-{replica}.log"
        store = open_store(store_url)
        try:
            folder = await asyncio.to_thread(resolve.model_folder, store, engine.source)
            spec = ServerSpec(engine, folder, device, resolve.interpreter(engine.config))
            process = EngineProcess(spec, host or ray.util.get_node_ip_address(), key, log, command)
            self._process = process
            await process.start()
        except RaymillError as error:
            await self._refuse(engine.name, error)
            raise
        self._shelf = AdapterShelf(process.api, lambda source: resolve.adapter_folder(store, source), self._refuse)
        self._announcement = Announcement(
            replica=replica,
            engine=engine.name,
            address=process.address,
            node=ray.get_runtime_context().get_node_id(),
            pid=process.pid,
            pids=tuple(process.pids),
            started=process.started,
            log=str(log),
            models=(engine.name,),
        )
        self._talk_soon()
        self._watcher = asyncio.create_task(self._watch(process))

    async def check_health(self) -> None:
        """Called by Serve every few seconds; raises where the engine does not answer."""
        self._hung = self._process is None or not await self._process.healthy()
        if self._hung:
            if self._announcement is not None:
                self._talk = asyncio.create_task(self._ask("withdraw", self._announcement.replica))
            raise RuntimeError(f"the engine {self._engine.name} does not answer")
        self._talk_soon()

    async def __call__(self) -> str:
        """The engine's address."""
        return self._process.address if self._process else ""

    async def __del__(self) -> None:
        """Called by Serve when the replica is to go."""
        await self.leave()

    async def leave(self) -> None:
        """Out of the gateways, then the answers in flight, then the server's end."""
        announcement, self._announcement = self._announcement, None
        for task in filter(None, (self._watcher, self._talk, self._adapting)):
            task.cancel()
        if announcement is not None:
            await self._ask("withdraw", announcement.replica)
            if not self._hung:
                await self._drained(announcement.address)
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)

    def _talk_soon(self) -> None:
        """Announce beside the health check, which must not wait for the controller or for an adapter's download."""
        if self._announcement is not None and (self._talk is None or self._talk.done()):
            self._talk = asyncio.create_task(self._converse())

    async def _converse(self) -> None:
        wanted = await self._announce()
        if wanted is not None and self._engine.lora is not None and (self._adapting is None or self._adapting.done()):
            self._adapting = asyncio.create_task(self._adapt(wanted))

    async def _adapt(self, wanted: Mapping[str, ModelSource] | None) -> None:
        while wanted is not None and await self._shelf.follow(wanted):
            wanted = await self._announce()

    async def _announce(self) -> Mapping[str, ModelSource] | None:
        """The adapters that the engine should hold; None where nobody says, or where it is not to be announced."""
        if self._announcement is None or self._hung:
            return None
        models = (self._engine.name, *self._shelf.held)
        answer: Mapping[str, ModelSource] | None = await self._ask(
            "announce", replace(self._announcement, models=models)
        )
        return answer

    async def _watch(self, process: EngineProcess) -> None:
        """Say at once that the engine is gone; Serve notices with its next health checks and replaces the replica."""
        while process.alive():
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._hung = True
        if self._announcement is not None:
            await self._ask("withdraw", self._announcement.replica)

    async def _refuse(self, model: str, error: RaymillError) -> None:
        """Tell the reason; it is told once, so a controller that is just restarting is asked again."""
        import ray

        for attempt in range(REFUSAL_TRIES):
            try:
                await asyncio.wait_for(self._controller.refuse.remote(model, error), CALL_TIMEOUT_S)
                return
            except (ray.exceptions.RayError, TimeoutError):
                await asyncio.sleep(0.5 * 2**attempt)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """The controller's answer; None where it gives none."""
        import ray

        try:
            return await asyncio.wait_for(getattr(self._controller, method).remote(*arguments), CALL_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError):
            return None

    async def _drained(self, address: str) -> None:
        """Return when neither the gateways nor the engine know of a request to it, or when the time is over."""
        process, deadline, quiet = self._process, time.monotonic() + self._drain_seconds, 0
        while process is not None and process.alive() and quiet < QUIET_POLLS and time.monotonic() < deadline:
            known = await asyncio.gather(self._ask("in_flight", address), process.api.ongoing())
            quiet = 0 if any(known) else quiet + 1
            await asyncio.sleep(WATCH_INTERVAL_S)
