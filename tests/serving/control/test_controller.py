"""What the controller answers replicas, over fleets that are played; no Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from serving.config import ServingConfig
from serving.control.controller import Controller
from serving.control.redeploy import first_state
from serving.control.sightings import Inherited, Sightings
from serving.control.state import ModelSource, ServingState
from serving.engines.announcement import Announcement, Orders
from serving.engines.plan import VariantSource

ADAPTER = ModelSource(folder="/models/adapter")
A = Announcement("r", "base", "http://a", "node", 1, (1,), 0.0, "log", ("base",))


def wanted() -> ServingState:
    variants = [{"name": name, "model": "given", "weight": 1} for name in ("base", "tuned")]
    base = ModelSource(folder="/models/base")
    sources = {"base": VariantSource(base), "tuned": VariantSource(base, ADAPTER, rank=4)}
    return first_state(ServingConfig.model_validate({"variants": variants}), sources, name="d", by="me", now=1.0)


class Gateways:
    """The fleet's answers."""

    port = admin_port = 1
    listening = False

    def __init__(self, count: int | None = 0) -> None:
        self.count = count

    async def find(self) -> list[Any]:
        return []

    async def poll(self) -> list[Any]:
        return []

    async def push(self, table: Any) -> None:
        pass

    def behind(self, serial: int) -> bool:
        return False

    def in_flight(self, address: str, serial: int) -> int | None:
        return self.count

    def ongoing(self) -> dict[str, int]:
        return {}

    waiting = ongoing


class Engines:
    """Scales as slowly as a Serve controller that is away."""

    def __init__(self) -> None:
        self.sightings, self.forgiven, self.free = Sightings(), 0, asyncio.Event()

    def seen(self, engine: str, models: tuple[str, ...]) -> None:
        pass

    def asleep(self) -> set[str]:
        return set()

    def forgive(self) -> None:
        self.forgiven += 1

    async def look(self) -> bool:
        raise ValueError("Serve does not run")

    async def scale(self, *arguments: Any) -> None:
        await self.free.wait()


def controller_of(state: ServingState | None, count: int | None = 0) -> Controller:
    made: Any = Controller.__new__(Controller)
    made._settings, made._started_at = SimpleNamespace(key="k"), 7.0
    made._state, made._loaded, made._ending = state, asyncio.Event(), None
    made._gateways, made._engines = Gateways(count), Engines()
    made._rollout = SimpleNamespace(take=lambda reports: None)
    made._tasks, made._problems, made._forever = [], {}, lambda *loop: asyncio.sleep(0)
    made._routes, made._table, made._adapters = {}, None, {}
    made._journal = SimpleNamespace(current=lambda: made.newest)
    if state is not None:
        made._loaded.set()
    controller: Controller = made
    return controller


def test_a_replica_is_told_its_adapters_and_what_is_wanted_now_of_its_end() -> None:
    state = wanted()
    state = state.model_copy(update={"limits": state.limits.model_copy(update={"drain_seconds": 120.0}), "served": 3})

    async def scenario() -> Orders:
        return await controller_of(state).announce(A)

    name = state.variants["tuned"].engine_model
    assert asyncio.run(scenario()) == Orders({name: ADAPTER}, 120.0, 3, 7.0)


def test_a_controller_that_has_just_begun_does_not_say_that_nothing_is_in_flight() -> None:
    async def scenario() -> None:
        controller: Any = controller_of(None, count=2)
        asked = asyncio.create_task(controller.in_flight("http://a"))
        await asyncio.sleep(0.05)
        assert not asked.done()
        controller._loaded.set()
        assert await asked == 2
        controller._gateways.count = None
        assert await controller.in_flight("http://a") is None

    asyncio.run(scenario())


def test_a_controller_that_begins_when_its_end_is_wanted_needs_no_serve() -> None:
    async def scenario() -> None:
        controller: Any = controller_of(None)
        controller.newest = wanted()
        beginning = asyncio.create_task(controller._begin())
        await asyncio.sleep(0.05)
        assert controller._problems == {"start": "start: Serve does not run"} and not beginning.done()
        controller.newest = controller.newest.model_copy(update={"version": 2, "stopped": True})
        await asyncio.wait_for(beginning, 5)
        assert controller._state.stopped and controller._problems == {}

    asyncio.run(scenario())


def test_a_replica_that_withdraws_is_not_reached_by_what_an_earlier_controller_knew() -> None:
    async def scenario() -> None:
        controller: Any = controller_of(wanted())
        controller._engines.sightings.inherit([Inherited("http://a", {"base": "base"})], 0)
        await controller._push()
        assert controller._routes["base"].addresses == ("http://a",)
        assert await controller.withdraw("r", "http://a")
        assert controller._routes["base"].addresses == ()

    asyncio.run(scenario())


def test_reports_are_taken_while_serve_is_slow_to_scale() -> None:
    async def scenario() -> None:
        controller: Any = controller_of(wanted())
        scaling = asyncio.create_task(controller._scale())
        await asyncio.wait_for(controller._take_reports(), 5)
        assert not scaling.done()
        controller._engines.free.set()
        await scaling

    asyncio.run(scenario())


def test_only_a_version_that_was_served_again_lets_what_failed_be_tried_again() -> None:
    async def scenario() -> None:
        state = wanted()
        controller: Any = controller_of(state)
        controller.newest = state.model_copy(update={"version": 2})
        await controller._follow()
        assert controller._engines.forgiven == 0
        controller.newest = state.model_copy(update={"version": 3, "served": 2})
        await controller._follow()
        await controller._follow()
        assert controller._engines.forgiven == 1

    asyncio.run(scenario())
