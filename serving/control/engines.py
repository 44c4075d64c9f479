"""The engines of a deployment: one Serve application each, started, scaled and removed as the state wants it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.errors import RaymillError, UserError
from serving.control import ray_serve
from serving.control.reconcile import Application, Failure, bounds_of, plan_steps
from serving.control.scaling import Scale, decide
from serving.control.settings import Settings
from serving.control.sightings import Sightings
from serving.control.state import EngineState, ServingState

END_GRACE_S = 20.0
"""What a replica needs to end its server, beside the time for answers in flight."""

LONGEST_DRAIN_S = 3600.0
"""Serve's own patience with a replica is fixed when its engine starts; the time for answers may be changed later."""


class EngineFleet:
    """Every engine of one deployment; use it within one event loop.

    Args:
        controller: the actor that replicas talk to.
        address: of this node. Engines of a deployment on loopback that run here stay on loopback too; whatever nodes
            join, no other node's engine is looked for there.

    Attributes:
        sightings: the replicas that answer.
        applications: engine -> its application, as of the last look.
        reasons: engine or adapter name -> why it does not come up.
    """

    def __init__(self, settings: Settings, controller: Any, address: str) -> None:
        self._settings, self._controller, self._address = settings, controller, address
        self.sightings = Sightings()
        self.applications: dict[str, Application] = {}
        self.reasons: dict[str, RaymillError] = {}
        self._failures: dict[str, Failure] = {}
        self._counts: dict[str, int] = {}
        self._has_run: set[str] = set()
        self._scales: dict[str, Scale] = {}
        self._slept: set[str] = set()
        self._ends: dict[str, float] = {}

    async def look(self) -> bool:
        """Ask Serve what there is; whether replicas are found to be gone."""
        self.applications = await asyncio.to_thread(ray_serve.applications, self._settings.prefix)
        self._has_run |= {name for name, each in self.applications.items() if each.status == "RUNNING"}
        alive = {replica for each in self.applications.values() for replica in each.replicas}
        return self.sightings.forget_dead(alive, time.monotonic())

    async def reconcile(self, state: ServingState, in_use: set[str]) -> bool:
        """Start what is missing and remove what nobody needs; whether replicas are found to be gone.

        Args:
            in_use: engines that must stay.
        """
        gone = await self.look()
        now = time.monotonic()
        await self._end_overdue(state.limits.drain_seconds, now)
        for name, each in self.applications.items():
            if each.status == "DEPLOY_FAILED" and name in state.engines and name not in self._has_run:
                self._fail(name, self.reasons.get(name) or ray_serve.died_starting(each))
        steps = plan_steps(state, self.applications, in_use, self._failures, now)
        for engine in steps.start:
            failure = self._failures.pop(engine.name, None)
            self._counts[engine.name] = failure.count if failure else 0
            await asyncio.to_thread(self._start, engine, state.limits.drain_seconds)
        if steps.remove:
            names = [self._settings.application(name) for name in steps.remove]
            await asyncio.to_thread(ray_serve.remove_applications, names, wait=False)
        for name in [name for name in self._scales if name not in self.applications]:
            del self._scales[name]
        return gone

    async def scale(self, state: ServingState, ongoing: Mapping[str, int], waiting: Mapping[str, int]) -> None:
        """Change numbers of replicas to what the requests need.

        Args:
            ongoing: address -> requests in flight there.
            waiting: variant -> requests that wait for an engine of it.
        """
        now = time.monotonic()
        for engine in state.engines.values():
            application = self.applications.get(engine.name)
            if application is None or application.status == "DELETING":
                continue
            before = self._scales.get(engine.name) or Scale(application.target)
            bounds = bounds_of(state, engine)
            variants = [each.name for each in state.variants.values() if each.engine == engine.name]
            replicas = self.sightings.of(engine.name)
            up = bool(replicas) or before.target == 0
            if not up and bounds.least <= before.target <= bounds.most:
                continue  # it is starting
            requests = sum(ongoing.get(each.address, 0) for each in replicas)
            requests += sum(waiting.get(each, 0) for each in variants)
            scale = self._scales[engine.name] = decide(before, requests, bounds, now)
            if scale.target == 0:
                self._slept.add(engine.name)
            if scale.target != application.target:
                name = self._settings.application(engine.name)
                await asyncio.to_thread(ray_serve.set_replicas, name, scale.target)
                if now_there := self.applications.get(engine.name):  # looked at again meanwhile
                    self.applications[engine.name] = replace(now_there, target=scale.target)

    def seen(self, engine: str, models: tuple[str, ...]) -> None:
        """An engine answers for these models."""
        self._has_run.add(engine)
        self._slept.discard(engine)
        for name in (engine, *models):
            self.reasons.pop(name, None)
        self._failures.pop(engine, None)
        self._counts.pop(engine, None)

    def refused(self, name: str, error: RaymillError, *, is_engine: bool) -> None:
        """An engine or an adapter does not come up. An engine that ran before is tried again and again by Serve."""
        self.reasons[name] = error
        if is_engine and isinstance(error, UserError) and name not in self._has_run:
            self._fail(name, error)

    def forgive(self) -> None:
        """Try again what failed or was refused: a folder may be mended, memory may be free."""
        self.reasons.clear()
        self._failures.clear()
        self._counts.clear()

    def asleep(self) -> set[str]:
        """Engines that are scaled to zero, or wake from it."""
        return {name for name in self._slept if name not in self.reasons}

    def targets(self) -> dict[str, int]:
        """Engine -> replicas that it should have."""
        return {name: each.target for name, each in self.applications.items()}

    def failures(self) -> dict[str, RaymillError]:
        """Engine -> why it is down, of those that were given up, for now or for good."""
        return {name: each.error for name, each in self._failures.items()}

    async def remove_all(self, drain_seconds: float) -> None:
        """Remove every application and return when all their processes have ended.

        Args:
            drain_seconds: the time for answers in flight.
        """
        self.applications = await asyncio.to_thread(ray_serve.applications_left, self._settings.prefix)
        await self._end_overdue(drain_seconds, time.monotonic())
        names = [self._settings.application(name) for name in self.applications]
        await asyncio.to_thread(ray_serve.remove_applications, names, wait=True)

    async def _end_overdue(self, drain_seconds: float, now: float) -> None:
        """Kill replicas that have not ended in time; what they started ends with them."""
        leaving = {actor for each in self.applications.values() for actor in each.leaving}
        self._ends = {actor: self._ends.get(actor, now) for actor in leaving}
        for actor, since in self._ends.items():
            if now - since > drain_seconds + END_GRACE_S:
                await asyncio.to_thread(ray_serve.end_replica, actor)

    def _fail(self, name: str, error: RaymillError) -> None:
        self.reasons[name] = error
        if name not in self._failures:
            self._failures[name] = Failure(error, time.monotonic(), self._counts.get(name, 0) + 1)

    def _start(self, engine: EngineState, drain_seconds: float) -> None:
        settings = self._settings
        arguments = {
            "engine": engine,
            "device": settings.device,
            "store_url": settings.store_url,
            "controller": self._controller,
            "key": settings.key,
            "home": self._address if settings.loopback else "",
            "logs": settings.logs,
            "command": settings.commands.get(engine.name) or settings.commands.get("*"),
            "drain_seconds": drain_seconds,
        }
        name, grace = settings.application(engine.name), max(drain_seconds, LONGEST_DRAIN_S) + END_GRACE_S
        ray_serve.run_application(name, arguments, engine, settings.device, grace)
