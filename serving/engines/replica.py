"""A Ray Serve replica that supervises one vLLM server.

Serve is the control plane: it places, scales, health-checks and replaces replicas. The replica announces its server's
address and gateways go there directly (docs/decisions.md, "Requests do not cross Ray Serve").
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import RaymillError
from cluster.store import open_store
from serving.engines import resolve
from serving.engines.adapters import AdapterShelf
from serving.engines.announcement import ANNOUNCE_S, Announcement, Orders
from serving.engines.process import EngineProcess
from serving.engines.spec import ServerSpec

if TYPE_CHECKING:
    from serving.control.state import EngineState

WATCH_INTERVAL_S = 0.1
CALL_TIMEOUT_S = 5.0
REFUSAL_TRIES = 4
QUIET_POLLS = 3
"""So many times in a row nobody may be answered any more: a request can be on its way from a gateway."""


class EngineReplica:
    """Started by Serve; ready when its engine's base weights have answered a request. Adapters follow while it runs.

    It announces itself by a loop of its own, so that gateways keep an engine that answers also while Serve's controller
    is away. Calls to the deployment's controller may fail or take long, as it may just be restarted: they never decide
    about health.

    Args:
        engine: what to serve.
        device: ``cpu`` or ``gpu``.
        store_url: the store that model sources are in.
        controller: the deployment's controller actor. It is told ``announce``, ``withdraw`` and ``refuse``, and asked
            ``in_flight``.
        key: the token that requests to the engine must carry.
        home: the address of the only node that calls, where its engines stay on loopback; empty where any node calls.
        logs: folder for the engine's output.
        command: another command line; see :class:`serving.engines.process.EngineProcess`.
        drain_seconds: how long requests in flight may take when the replica is to go, until the controller says
            otherwise.

    Raises:
        UserError: the model is not there, or vLLM refuses it.
        InfraError: the engine was not ready in time.
    """

    # Serve may call __del__ while __init__ still waits for the engine.
    _process: EngineProcess | None = None
    _announcement: Announcement | None = None
    _watcher: asyncio.Task[None] | None = None
    _talker: asyncio.Task[None] | None = None
    _adapting: asyncio.Task[None] | None = None
    _hung = False
    _deserted = False
    _served = 0
    _controller_since = 0.0

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self,
        engine: EngineState,
        device: str,
        store_url: str,
        controller: Any,
        key: str,
        home: str,
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
            host = listening_host(home, ray.util.get_node_ip_address())
            process = EngineProcess(spec, host, key, log, command)
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
        self._talker = asyncio.create_task(self._talk(process))
        self._watcher = asyncio.create_task(self._watch(process))

    async def check_health(self) -> None:
        """Called by Serve every few seconds; raises where the engine does not answer."""
        if self._process is None or not await self._process.healthy():
            raise RuntimeError(f"the engine {self._engine.name} does not answer")
        if self._talker is not None and self._talker.done() and self._announcement is not None:
            raise RuntimeError(
                f"nobody announces the engine {self._engine.name} any more"
            ) from self._talker.exception()

    async def __call__(self) -> str:
        """The engine's address."""
        return self._process.address if self._process else ""

    async def __del__(self) -> None:
        """Called by Serve when the replica is to go."""
        await self.leave()

    async def leave(self) -> None:
        """Out of the gateways, then the answers in flight, then the server's end."""
        announcement, self._announcement = self._announcement, None
        for task in filter(None, (self._watcher, self._talker, self._adapting)):
            task.cancel()
        if announcement is not None:
            withdrawn = await self._withdraw(announcement)
            if not self._hung:
                await self._drained(announcement, withdrawn)
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)

    async def _talk(self, process: EngineProcess) -> None:
        """Announce the engine while it answers; neither a slow controller nor an adapter's download delays Serve."""
        while self._announcement is not None:
            self._hung = not await process.healthy()
            if self._hung:
                await self._withdraw(self._announcement)
            else:
                await self._converse()
            await asyncio.sleep(ANNOUNCE_S)

    async def _converse(self) -> None:
        orders = await self._announce()
        if orders is not None and self._engine.lora is not None and (self._adapting is None or self._adapting.done()):
            self._adapting = asyncio.create_task(self._adapt(orders))

    async def _adapt(self, orders: Orders | None) -> None:
        while orders is not None and await self._shelf.follow(orders.adapters):
            orders = await self._announce()

    async def _announce(self) -> Orders | None:
        """What the engine is to do; None where nobody says, or where it is not to be announced."""
        if self._announcement is None or self._hung:
            return None
        models = (self._engine.name, *self._shelf.held)
        orders: Orders | None = await self._ask("announce", replace(self._announcement, models=models))
        if orders is not None:
            self._drain_seconds = orders.drain_seconds
            if orders.served != self._served:
                self._served = orders.served
                self._shelf.try_again()
            if orders.controller_since != self._controller_since:
                self._controller_since = orders.controller_since
                self._shelf.tell_again()
        return orders

    async def _withdraw(self, announcement: Announcement) -> bool:
        """Whether the controller has heard that no new request is to come."""
        return bool(await self._ask("withdraw", announcement.replica, announcement.address))

    async def _watch(self, process: EngineProcess) -> None:
        """Say at once that the engine is gone; Serve notices with its next health checks and replaces the replica."""
        while process.alive():
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._hung = True
        if self._announcement is not None:
            await self._withdraw(self._announcement)

    async def _refuse(self, model: str, error: RaymillError) -> None:
        """Tell the reason; it is told once to a controller, so one that is just restarting is asked again."""
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

        self._deserted = False
        try:
            return await asyncio.wait_for(getattr(self._controller, method).remote(*arguments), CALL_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self._deserted = isinstance(error, ray.exceptions.ActorDiedError)
            return None

    async def _drained(self, announcement: Announcement, withdrawn: bool) -> None:
        """Return when neither the gateways nor the engine know of a request to it, or when the time is over.

        While the controller is being restarted, gateways may go on sending: it is told again, and asked again. One
        that is gone for good has nothing to say; then the engine alone knows.
        """
        process, quiet = self._process, 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while process is not None and process.alive() and quiet < QUIET_POLLS:
                    withdrawn = withdrawn or await self._withdraw(announcement)
                    asked = self._ask("in_flight", announcement.address)
                    in_gateways, in_engine = await asyncio.gather(asked, process.api.ongoing())
                    unknown = not self._deserted and (in_gateways is None or not withdrawn)
                    quiet = 0 if unknown or in_gateways or in_engine else quiet + 1
                    await asyncio.sleep(WATCH_INTERVAL_S)


def listening_host(home: str, own: str) -> str:
    """The address that an engine listens on.

    Args:
        home: of the only node that calls; empty where any node calls.
        own: this node's.
    """
    return "127.0.0.1" if home == own else own
