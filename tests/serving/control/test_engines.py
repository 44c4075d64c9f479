"""The fleet of engines over a Ray Serve that is played: what is tried again, where engines listen, who ends late."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cluster.errors import InfraError, RaymillError, UserError
from serving.config import ServingConfig
from serving.control import engines, ray_serve
from serving.control.engines import END_GRACE_S, EngineFleet
from serving.control.reconcile import Application
from serving.control.redeploy import first_state
from serving.control.settings import Settings
from serving.control.state import ModelSource, ServingState
from serving.engines.announcement import Announcement
from serving.engines.plan import VariantSource

HERE = "10.0.0.1"


class Serve:
    """What Ray Serve is asked and told."""

    def __init__(self) -> None:
        self.applications: dict[str, Application] = {}
        self.arguments: dict[str, dict[str, Any]] = {}
        self.ended: list[str] = []
        self.targets: dict[str, int] = {}

    def run(self, name: str, arguments: dict[str, Any], engine: Any, device: str, grace_s: float) -> None:
        self.arguments[engine.name] = arguments
        self.applications[engine.name] = Application(engine.name, "DEPLOYING", 1)

    def remove(self, names: list[str], *, wait: bool) -> None:
        for name in names:
            self.applications.pop(name.rpartition(":")[2], None)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    played = Serve()
    monkeypatch.setattr(ray_serve, "applications", lambda prefix: dict(played.applications))
    monkeypatch.setattr(ray_serve, "run_application", played.run)
    monkeypatch.setattr(ray_serve, "remove_applications", played.remove)
    monkeypatch.setattr(ray_serve, "end_replica", played.ended.append)
    monkeypatch.setattr(ray_serve, "set_replicas", lambda name, target: played.targets.update({name: target}))
    return played


def state_of(**engine: Any) -> ServingState:
    config = ServingConfig.model_validate(
        {"variants": [{"name": "a", "model": "given", "weight": 1}], "engine": engine, "limits": {"drain_seconds": 5}}
    )
    return first_state(config, {"a": VariantSource(ModelSource(folder="/m"))}, name="docs", by="me", now=1.0)


def fleet_of(host: str = "127.0.0.1") -> EngineFleet:
    return EngineFleet(Settings("docs", "", "", host, 8000, 8001, 1, key="k"), None, HERE)


def reconcile(fleet: EngineFleet, state: ServingState, times: int = 1) -> None:
    for _ in range(times):
        asyncio.run(fleet.reconcile(state, set(state.engines)))


@pytest.mark.parametrize("error", [UserError("not to my taste"), InfraError("killed")])
def test_what_was_given_up_is_tried_again_when_it_is_served_again(serve: Serve, error: RaymillError) -> None:
    fleet, state = fleet_of(), state_of()
    reconcile(fleet, state)
    fleet.refused("a", error, is_engine=True)
    serve.applications["a"] = Application("a", "DEPLOY_FAILED", 1)
    reconcile(fleet, state, 3)
    assert serve.applications == {} and fleet.failures() == {"a": error}
    fleet.forgive()
    assert fleet.reasons == {} and fleet.failures() == {}
    reconcile(fleet, state)
    assert set(serve.applications) == {"a"}


def test_what_was_killed_is_tried_again_by_itself_after_a_pause(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, state = fleet_of(), state_of()
    reconcile(fleet, state)
    fleet.refused("a", InfraError("killed by SIGKILL"), is_engine=True)
    serve.applications["a"] = Application("a", "DEPLOY_FAILED", 1)
    reconcile(fleet, state, 2)
    assert serve.applications == {}
    later = time.monotonic() + 30
    monkeypatch.setattr(engines.time, "monotonic", lambda: later)
    reconcile(fleet, state)
    assert set(serve.applications) == {"a"}


def test_engines_of_a_loopback_deployment_are_told_which_node_alone_calls_them(serve: Serve) -> None:
    for host, home in (("127.0.0.1", HERE), ("::1", HERE), ("0.0.0.0", "")):
        reconcile(fleet_of(host), state_of())
        assert serve.arguments["a"]["home"] == home
        serve.applications.clear()


def test_a_replica_that_does_not_end_in_time_is_killed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, state, now = fleet_of(), state_of(), time.monotonic()
    serve.applications["a"] = Application("a", "RUNNING", 1, leaving=frozenset({"late"}))
    reconcile(fleet, state)
    monkeypatch.setattr(engines.time, "monotonic", lambda: now + END_GRACE_S)
    reconcile(fleet, state)
    assert serve.ended == []
    monkeypatch.setattr(engines.time, "monotonic", lambda: now + END_GRACE_S + 6)
    reconcile(fleet, state.model_copy(update={"limits": state.limits.model_copy(update={"drain_seconds": 60.0})}))
    assert serve.ended == []  # the time for answers was made longer
    reconcile(fleet, state)
    assert serve.ended == ["late"]


def test_what_a_new_controller_sees_before_it_knows_the_time_for_answers_is_not_killed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, now = fleet_of(), time.monotonic()
    serve.applications["a"] = Application("a", "RUNNING", 1, leaving=frozenset({"draining"}))
    for later in (0, 1000):
        monkeypatch.setattr(engines.time, "monotonic", lambda: now + later)  # noqa: B023 - called in this turn
        asyncio.run(fleet.look())
    assert serve.ended == []


def test_at_the_end_a_replica_has_the_time_that_the_end_gives(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, now = fleet_of(), time.monotonic()
    monkeypatch.setattr(ray_serve, "serve_runs", lambda: True)
    leaving = Application("a", "DELETING", 0, leaving=frozenset({"late"}))
    for later, ended in ((0, []), (END_GRACE_S + 29, []), (END_GRACE_S + 31, ["late"])):
        serve.applications["a"] = leaving
        monkeypatch.setattr(engines.time, "monotonic", lambda: now + later)  # noqa: B023 - called in this turn
        asyncio.run(fleet.remove_all(30.0))
        assert serve.ended == ended


def test_where_serve_does_not_run_the_end_finds_no_engine_and_any_other_question_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody() -> None:
        raise ValueError("Failed to look up actor")

    monkeypatch.setattr(ray_serve, "serve_controller", nobody)
    asyncio.run(fleet_of().remove_all(0.0))
    with pytest.raises(ValueError, match="Failed to look up"):
        asyncio.run(fleet_of().look())


def test_a_look_while_serve_is_slow_to_scale_is_not_undone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, state = fleet_of(), state_of(replicas="1:3", target_ongoing=1)
    serve.applications["a"] = Application("a", "RUNNING", 1)

    def slow(name: str, target: int) -> None:
        fleet.applications = {"a": Application("a", "UNHEALTHY", 1)}

    async def scenario() -> None:
        await fleet.look()
        fleet.sightings.announce(Announcement("r", "a", "http://a", "node", 1, (1,), 0.0, "log", ("a",)), 0)
        monkeypatch.setattr(ray_serve, "set_replicas", slow)
        await fleet.scale(state, {"http://a": 3}, {})
        monkeypatch.setattr(engines.time, "monotonic", lambda: 1e9)
        await fleet.scale(state, {"http://a": 3}, {})

    asyncio.run(scenario())
    assert fleet.applications["a"] == Application("a", "UNHEALTHY", 3)
