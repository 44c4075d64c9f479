"""The one actor of a deployment that makes what is wanted be: engines, gateways, and what gateways know.

What is wanted comes from the journal in the store, what is comes from replicas and gateways; nothing that matters is
kept here alone. Killed, it is started again by Ray and rebuilds everything, while gateways serve by their last table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from cluster.errors import RaymillError, causes
from cluster.store import open_store
from serving.control import ray_serve
from serving.control.endpoint import Endpoint
from serving.control.engines import EngineFleet
from serving.control.gateways import GatewayFleet
from serving.control.journal import Journal
from serving.control.overview import overview
from serving.control.records import Records
from serving.control.rollouts import RolloutDriver
from serving.control.routes import engines_in_use, inherited_from, route_table, variant_routes
from serving.control.settings import Settings, url_host
from serving.control.state import ModelSource, ServingState
from serving.control.status import DeploymentStatus
from serving.engines.announcement import Announcement, Orders
from serving.engines.plan import adapters_of
from serving.gateway.table import RouteTable, VariantRoute

FOLLOW_S, REPORT_S, RECONCILE_S, ROLLOUT_S, STATUS_S = 0.5, 0.5, 1.0, 1.0, 0.5
END_PAUSE_S = 1.0
UNATTENDED_S = 60.0
"""A deployment whose owner was killed ends after so long."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What the process that deploys wants to know.

    Attributes:
        url: of the public API, without ``/v1``; empty while no gateway listens.
        status: everything else; None while the state has not been read.
        failures: engine or adapter -> why it does not come up.
        announcements: every replica that answers.
        applications: engine -> Serve's word for its application.
        problem: why gateways cannot listen.
    """

    url: str
    status: DeploymentStatus | None
    failures: Mapping[str, RaymillError]
    announcements: tuple[Announcement, ...]
    applications: Mapping[str, str]
    problem: RaymillError | None


class Controller:
    """The controller of one deployment; run as an asyncio Ray actor with ``max_restarts=-1``.

    Args:
        settings: the same at every start.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc] # Ray awaits it
        import ray

        context = ray.get_runtime_context()
        self._settings = settings
        self._store = open_store(settings.state_url)
        self._journal = Journal(self._store, settings.name)
        self._gateways = GatewayFleet(settings, context.get_node_id())
        self._engines = EngineFleet(settings, context.current_actor, ray.util.get_node_ip_address())
        self._rollout = RolloutDriver(Journal(self._store, settings.name))
        self._state: ServingState | None = None
        self._loaded = asyncio.Event()
        self._routes: dict[str, VariantRoute] = {}
        self._table: RouteTable | None = None
        self._adapters: dict[str, ModelSource] = {}
        self._problems: dict[str, str] = {}
        self._records = Records(self._store, settings.name, takes_over=settings.takes_over)
        self._started_at = time.time()
        self._attended = time.monotonic()
        self._ending: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._on_engines, self._on_gateways = asyncio.Lock(), asyncio.Lock()
        self._ray_address = context.gcs_address
        self._tasks = [asyncio.create_task(self._begin())]

    # What replicas call.

    async def announce(self, announcement: Announcement) -> Orders:
        """A replica's engine answers (still); what it is to do."""
        await self._loaded.wait()
        self._engines.seen(announcement.engine, announcement.models)
        if self._engines.sightings.announce(announcement, time.monotonic()):
            await self._push()
        assert self._state is not None
        adapters = self._adapters_for(self._state, announcement.engine)
        return Orders(adapters, self._state.limits.drain_seconds, self._state.served, self._started_at)

    async def withdraw(self, replica: str, address: str) -> bool:
        """A replica's engine gets no new request from now on; that this has been heard."""
        await self._loaded.wait()
        if self._engines.sightings.withdraw(replica, address):
            await self._push()
        return True

    async def refuse(self, name: str, error: RaymillError) -> None:
        """An engine or an adapter does not come up, and why."""
        await self._loaded.wait()
        assert self._state is not None
        self._engines.refused(name, error, is_engine=name in self._state.engines)
        await self._push()

    async def in_flight(self, address: str) -> int | None:
        """Requests in flight to an engine, over all gateways, now; None where a gateway does not say."""
        await self._loaded.wait()
        if self._ending is None:
            await self._take_reports()
        return self._gateways.in_flight(address, self._table.serial if self._table else -1)

    # What the process that deploys calls.

    async def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        self._attended = time.monotonic()
        listening = self._gateways.listening
        return Snapshot(
            url=self._url(self._settings.host, self._gateways.port) if listening else "",
            status=self._overview() if self._loaded.is_set() else None,
            failures={**self._engines.reasons, **self._engines.failures()},
            announcements=self._engines.sightings.all(),
            applications={name: each.status for name, each in self._engines.applications.items()},
            problem=self._gateways.problem,
        )

    async def settings(self) -> Settings:
        """What it was started with, but for the engines' key."""
        return replace(self._settings, key="")

    async def attend(self) -> None:
        """The owner lives."""
        self._attended = time.monotonic()

    async def refresh(self) -> None:
        """Read the newest state and tell every gateway, now."""
        await self._loaded.wait()
        await self._follow()

    async def stop(self, drain_seconds: float) -> None:
        """End the deployment: gateways first, then engines. Harmless to repeat."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(drain_seconds))
        await asyncio.shield(self._ending)

    # What goes on by itself.

    async def _begin(self) -> None:
        tables: list[RouteTable] = []
        while not self._loaded.is_set():
            try:
                tables = tables or await self._gateways.find()
                state = await asyncio.to_thread(self._journal.current)
                if not state.stopped:  # its end asks Serve by itself, and wants none
                    await self._engines.look()
                self._state = state
                self._loaded.set()
            except Exception as error:  # noqa: BLE001 - whatever fails at the start is tried again; gateways go on
                self._note("start", error)
                await asyncio.sleep(FOLLOW_S)
        self._problems.pop("start", None)
        assert self._state is not None
        self._remember(self._state)
        self._engines.sightings.inherit(inherited_from(tables), time.monotonic())
        if tables:
            self._table = max(tables, key=lambda table: table.serial)
            self._routes = dict(self._table.variants)
        await self._push()
        loops = (
            ("state", FOLLOW_S, self._follow),
            ("end", FOLLOW_S, self._end_where_wanted),
            ("gateways", REPORT_S, self._take_reports),
            ("scaling", REPORT_S, self._scale),
            ("engines", RECONCILE_S, self._reconcile),
            ("listening", RECONCILE_S, self._listen),
            ("rollout", ROLLOUT_S, self._step_rollout),
            ("status", STATUS_S, self._write_status),
        )
        self._tasks += [asyncio.create_task(self._forever(*each)) for each in loops]

    async def _forever(self, name: str, interval: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
                self._problems.pop(name, None)
            except Exception as error:  # noqa: BLE001 - a store or a service that fails must not end the serving
                self._note(name, error)
            await asyncio.sleep(interval)

    async def _follow(self) -> None:
        newest = await asyncio.to_thread(self._journal.current)
        if self._state is None or newest.version > self._state.version:
            if self._state is not None and newest.served != self._state.served:
                self._engines.forgive()
            self._state = newest
            self._remember(newest)
        await self._push()

    async def _end_where_wanted(self) -> None:
        state = self._state
        if state is not None and self._ending is None and (state.stopped or self._abandoned()):
            self._ending = asyncio.create_task(self._end(state.limits.drain_seconds))
            self._leaving = asyncio.create_task(self._leave(self._ending))

    async def _push(self) -> None:
        """Tell gateways, where there is anything new."""
        state = self._state
        if state is None or self._ending is not None:
            return
        routes = variant_routes(state, self._engines.sightings, self._engines.asleep(), self._routes)
        table = self._table
        changed = table is None or routes != self._routes or table.version != state.version
        if changed or table is None:
            # Later controllers count on from the clock, and pushes may overtake each other.
            serial = max(int(time.time() * 1000), table.serial + 1 if table else 0)
            created = table.created if table else int(time.time())
            self._routes = routes
            table = self._table = route_table(state, routes, key=self._settings.key, serial=serial, created=created)
        elif not self._gateways.behind(table.serial):
            return
        await self._gateways.push(table)

    async def _take_reports(self) -> None:
        self._rollout.take(await self._gateways.poll())
        if self._engines.sightings.forget_silent(time.monotonic()):
            await self._push()

    async def _scale(self) -> None:
        """Apart from the reports, which Serve must not delay: it may take long to answer, or be away."""
        if self._state is not None and self._ending is None:
            await self._engines.scale(self._state, self._gateways.ongoing(), self._gateways.waiting())
            await self._push()

    async def _reconcile(self) -> None:
        async with self._on_engines:
            if self._state is not None and self._ending is None:
                in_use = engines_in_use(self._state, self._engines.sightings, self._routes)
                if await self._engines.reconcile(self._state, in_use):
                    await self._push()

    async def _listen(self) -> None:
        async with self._on_gateways:
            if self._ending is not None:
                return
            await self._gateways.ensure(self._table)
        if self._gateways.problem is not None:
            raise self._gateways.problem
        url = self._url(self._settings.host, self._gateways.port)
        if self._gateways.listening:
            endpoint = Endpoint(
                name=self._settings.name,
                url=url,
                admin_url=self._url("127.0.0.1", self._gateways.admin_port),
                ray_address=self._ray_address,
                started_at=self._started_at,
                started_by=self._settings.started_by,
                pid=self._settings.pid,
                host=self._settings.machine,
                deployed_at=self._settings.deployed_at,
            )
            await self._records.publish(endpoint)

    async def _step_rollout(self) -> None:
        if self._state is None or self._ending is not None or not self._records.decides:
            return
        if await self._rollout.step(self._state, self._routes) is not None:
            await self._follow()

    async def _write_status(self) -> None:
        await self._records.write(self._overview())

    # How it ends.

    def _abandoned(self) -> bool:
        return self._settings.attended and time.monotonic() - self._attended > UNATTENDED_S

    async def _end(self, drain_seconds: float) -> None:
        await until_done(lambda: self._close(drain_seconds), lambda error: self._note("end", error))
        settings = self._settings
        try:
            await self._records.forget(settings.pid, settings.machine, self._ray_address)
        except (RaymillError, OSError) as error:
            _log.error("the endpoint's record stays in the store", exc_info=error)
        for task in self._tasks:
            task.cancel()

    async def _close(self, drain_seconds: float) -> None:
        async with self._on_gateways:
            await self._gateways.close(drain_seconds)
        async with self._on_engines:
            await self._engines.remove_all(drain_seconds)

    async def _leave(self, ending: asyncio.Task[None]) -> None:
        import ray

        await ending
        while self._settings.attended and not self._abandoned():
            await asyncio.sleep(1)  # its owner sees it, and ends this actor
        if self._settings.started_serve:
            await asyncio.to_thread(ray_serve.end_serve)
        ray.kill(ray.get_runtime_context().current_actor)

    # Small things.

    def _overview(self) -> DeploymentStatus:
        assert self._state is not None
        return overview(
            self._state,
            gateways=self._gateways.status(),
            sightings=self._engines.sightings,
            routes=self._routes,
            targets=self._engines.targets(),
            reasons={name: error.what for name, error in self._engines.reasons.items()},
            ongoing=self._gateways.ongoing(),
            rollout=self._rollout.summary,
            problems=sorted(self._problems.values()),
            now=time.time(),
        )

    def _adapters_for(self, state: ServingState, engine: str) -> dict[str, ModelSource]:
        """The adapters that the state wants on an engine, and those that still answer for a variant on their way."""
        wanted = adapters_of(state, engine)
        own = {each.address for each in self._engines.sightings.of(engine)}
        for route in self._routes.values():
            if route.engine_model in self._adapters and own & set(route.addresses):
                wanted.setdefault(route.engine_model, self._adapters[route.engine_model])
        return wanted

    def _remember(self, state: ServingState) -> None:
        self._adapters |= {each.engine_model: each.adapter for each in state.variants.values() if each.adapter}

    def _url(self, host: str, port: int) -> str:
        return f"http://{url_host(host)}:{port}"

    def _note(self, name: str, error: Exception) -> None:
        known = next((cause for cause in causes(error) if isinstance(cause, RaymillError)), None)
        text = f"{name}: {known.what if known else error or type(error).__name__}"
        if self._problems.get(name) != text:
            _log.error("%s", text, exc_info=error)
        self._problems[name] = text


async def until_done(
    step: Callable[[], Awaitable[None]], note: Callable[[Exception], None], pause_s: float = END_PAUSE_S
) -> None:
    """Repeat a step until it succeeds: what ends a deployment must not give up half-way, with engines still there."""
    while True:
        try:
            return await step()
        except Exception as error:  # noqa: BLE001 - whatever fails now, such as Serve's patience, may work later
            note(error)
            await asyncio.sleep(pause_s)
