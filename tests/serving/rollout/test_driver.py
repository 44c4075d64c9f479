"""The controller's side: what gateways report goes in, and what the rollout decides becomes a version."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.control import changes
from serving.control.rollouts import RolloutDriver
from serving.gateway.observation import GatewayReport
from serving.gateway.table import VariantRoute
from serving.rollout.run import RolloutRun
from serving.rollout.view import status_text

ROUTES = {name: VariantRoute(name, (f"http://{name}",)) for name in ("base", "tuned")}


def report_of(w, state):
    observations, feedback = w.traffic()
    return GatewayReport("g0", 1, state.version, 8000, observations=tuple(observations), feedback=tuple(feedback))


def test_the_controller_carries_a_rollout(world):
    w = world()
    driver = RolloutDriver(w.journal)
    state = asyncio.run(driver.step(w.state, ROUTES))
    assert state is not None
    assert (state.weights["tuned"], state.changed_by) == (10, f"rollout {state.rollout.id}")
    assert asyncio.run(driver.step(state, ROUTES)) is None
    report = report_of(w, state)
    driver.take([report])
    assert asyncio.run(driver.step(w.state, ROUTES)) is None
    assert driver.summary["phase"] == "comparing"
    assert driver.summary["open_units"] == len({each.unit for each in report.observations})


def test_a_killed_controller_goes_on_and_a_new_rollout_replaces_the_last(world):
    w = world()
    driver = RolloutDriver(w.journal)
    state = asyncio.run(driver.step(w.state, ROUTES))
    asyncio.run(driver.step(state, ROUTES))
    fresh = RolloutDriver(w.journal)
    assert asyncio.run(fresh.step(w.state, ROUTES)) is None
    assert fresh.summary["phase"] == "comparing"
    w.change(changes.rolled_back, by="ann", reason="enough")
    asyncio.run(fresh.step(w.state, ROUTES))
    assert fresh.summary["status"] == "rolled_back"
    w.change(lambda now: changes.with_rollout(now, w.config, ""), by="ann", reason="again")
    asyncio.run(fresh.step(w.state, ROUTES))
    assert (fresh.summary["id"], fresh.summary["status"]) == (w.state.rollout.id, "running")


@pytest.mark.parametrize(
    "route",
    [VariantRoute("tuned"), VariantRoute("tuned", asleep=True), VariantRoute("tuned-v1", ("http://former",))],
    ids=["starting", "asleep", "former_engine"],
)
def test_users_move_only_to_a_variant_whose_engine_answers(world, route):
    w = world()
    driver = RolloutDriver(w.journal)
    for _ in range(3):
        assert asyncio.run(driver.step(w.state, {**ROUTES, "tuned": route})) is None
    assert w.state.weights["tuned"] == 0
    assert (driver.summary["waits_for"], driver.summary["elapsed_seconds"]) == ("tuned", 0)
    assert "waiting until an engine of tuned answers" in status_text(driver.summary)
    state = asyncio.run(driver.step(w.state, ROUTES))
    assert state is not None
    assert (state.weights["tuned"], driver.summary["waits_for"]) == (10, "")


def test_what_comes_while_the_store_cannot_be_read_is_kept(world, monkeypatch):
    w = world()
    state = asyncio.run(RolloutDriver(w.journal).step(w.state, ROUTES))
    driver = RolloutDriver(w.journal)
    asyncio.run(RolloutDriver(w.journal).step(state, ROUTES))  # the step's weights are in force
    first, second = report_of(w, state), report_of(w, state)
    driver.take([first])
    with monkeypatch.context() as away:
        away.setattr(w.store, "files", lambda prefix="": 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(driver.step(state, ROUTES))
    driver.take([second])
    asyncio.run(driver.step(state, ROUTES))
    units = {each.unit for report in (first, second) for each in report.observations}
    assert driver.summary["open_units"] == len(units)


def test_what_comes_while_a_thread_works_is_not_lost(world, monkeypatch):
    """A report that is taken while the run observes belongs to the next step."""
    w = world()
    driver = RolloutDriver(w.journal)
    state = asyncio.run(driver.step(w.state, ROUTES))
    asyncio.run(driver.step(state, ROUTES))
    reports = [report_of(w, state) for _ in range(2)]
    entered, taken = threading.Event(), threading.Event()
    observe = RolloutRun.observe

    def slow(run, *seen):
        entered.set()
        assert taken.wait(10)
        observe(run, *seen)

    async def both():
        driver.take([reports[0]])
        step = asyncio.create_task(driver.step(state, ROUTES))
        await asyncio.to_thread(entered.wait, 10)
        driver.take([reports[1]])
        taken.set()
        await step
        assert driver.summary["open_units"] == len({each.unit for each in reports[0].observations})

    monkeypatch.setattr(RolloutRun, "observe", slow)
    asyncio.run(both())
    asyncio.run(driver.step(state, ROUTES))
    units = {each.unit for report in reports for each in report.observations}
    assert driver.summary["open_units"] == len(units)
