"""The fleet of gateways, over actors played by plain objects: one that hangs delays nobody and loses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import ray

from serving.control import gateways
from serving.control.gateways import GatewayFleet, _Gateway
from serving.control.settings import Settings
from serving.gateway.observation import GatewayReport, Observation

A, B = "http://a", "http://b"


class Actor:
    """Answers as a gateway's handle does; while it ``hangs``, only when it is let go."""

    def __init__(self, name: str, **report: Any) -> None:
        self.name, self.fields = name, {"serial": 1, "version": 1, "port": 8000, "ongoing": {A: 1}} | report
        self.free = asyncio.Event()
        self.free.set()
        self.dead = False
        self.reports = 0
        self.tables: list[Any] = []
        self.report, self.update = Method(self._report), Method(self._update)

    async def _report(self, others: Any) -> GatewayReport:
        self.reports += 1
        seen = Observation(f"{self.name}-{self.reports}", True, "a", 1, 0.0, False)  # taken away when it is asked
        await self._answer()
        return GatewayReport(self.name, observations=(seen,), **self.fields)

    async def _update(self, table: Any) -> None:
        await self._answer()
        self.tables.append(table)

    async def _answer(self) -> None:
        await self.free.wait()
        if self.dead:
            raise ray.exceptions.RayActorError(None, "it died")


class Method:
    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


def fleet_of(*actors: Actor) -> GatewayFleet:
    settings = Settings("docs", "", "", "127.0.0.1", 8000, 8001, len(actors), key="k")
    fleet = GatewayFleet(settings, "node")
    fleet._gateways = {each.name: _Gateway(each, "node", heard=time.monotonic()) for each in actors}
    return fleet


def units(reports: list[GatewayReport]) -> list[str]:
    return [each.unit for report in reports for each in report.observations]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "PATIENCE_S", 0.1)


def test_a_gateway_that_hangs_delays_no_round_and_loses_no_report() -> None:
    async def scenario() -> None:
        slow, well = Actor("slow"), Actor("well")
        fleet = fleet_of(slow, well)
        assert units(await fleet.poll()) == ["slow-1", "well-1"]
        slow.free.clear()
        assert units(await fleet.poll()) == ["well-2"]
        async with asyncio.timeout(0.09):  # no further round waits for it, not even as long as the first
            assert units(await fleet.poll()) == ["well-3"]
            await fleet.push("table")  # type: ignore[arg-type]
        assert (slow.reports, well.tables, slow.tables) == (2, ["table"], [])
        slow.free.set()
        await asyncio.sleep(0)
        assert sorted(units(await fleet.poll()) + units(await fleet.poll()))[:2] == ["slow-2", "slow-3"]
        await fleet.push("next")  # type: ignore[arg-type]
        assert slow.tables == ["next"]

    asyncio.run(scenario())


def test_a_gateway_that_hangs_in_a_push_delays_no_poll() -> None:
    async def scenario() -> None:
        slow, well = Actor("slow"), Actor("well")
        fleet = fleet_of(slow, well)
        await fleet.poll()
        slow.free.clear()
        await fleet.push("table")  # type: ignore[arg-type]
        async with asyncio.timeout(0.09):
            assert units(await fleet.poll()) == ["well-2"]
        assert [each.version for each in fleet.status()] == [-1, 1]
        slow.free.set()
        await asyncio.sleep(0)
        assert slow.tables == ["table"]

    asyncio.run(scenario())


def test_what_a_silent_gateway_had_in_flight_counts_until_it_is_back_or_gone() -> None:
    async def scenario() -> None:
        silent, well = Actor("silent"), Actor("well", ongoing={A: 2, B: 4}, serial=2)
        fleet = fleet_of(silent, well)
        await fleet.poll()
        assert fleet.ongoing() == {A: 3, B: 4} and fleet.behind(2)
        silent.dead = True
        assert units(await fleet.poll()) == ["well-2"]
        assert fleet.ongoing() == {A: 3, B: 4}
        assert not fleet.behind(2)  # it is told when it answers again
        assert [(each.version, each.port) for each in fleet.status()] == [(-1, 0), (1, 8000)]
        silent.dead, silent.fields = False, {"serial": -1, "version": -1, "port": 0}  # Ray started it again
        await fleet.poll()
        assert fleet.ongoing() == {A: 2, B: 4} and fleet.behind(2)
        del fleet._gateways["silent"]
        assert fleet.ongoing() == {A: 2, B: 4}

    asyncio.run(scenario())


def test_lost_observations_and_requests_are_in_the_status() -> None:
    async def scenario() -> None:
        fleet = fleet_of(Actor("g", requests={"a": 3, "b": 4}, dropped=5))
        await fleet.poll()
        (status,) = fleet.status()
        assert (status.requests, status.dropped) == (7, 5)

    asyncio.run(scenario())
