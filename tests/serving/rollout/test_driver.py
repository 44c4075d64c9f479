"""The controller's side: what gateways report goes in, and what the rollout decides becomes a version."""

from __future__ import annotations

import asyncio

from serving.control import changes
from serving.control.rollouts import RolloutDriver
from serving.gateway.observation import GatewayReport


def test_the_controller_carries_a_rollout(world):
    w = world()
    driver = RolloutDriver(w.journal)
    state = asyncio.run(driver.step(w.state))
    assert state is not None
    assert (state.weights["tuned"], state.changed_by) == (10, f"rollout {state.rollout.id}")
    assert asyncio.run(driver.step(state)) is None
    observations, feedback = w.traffic()
    report = GatewayReport("g0", 1, state.version, 8000, observations=tuple(observations), feedback=tuple(feedback))
    driver.take([report])
    assert asyncio.run(driver.step(w.state)) is None
    assert driver.summary["phase"] == "comparing"
    assert driver.summary["open_units"] == len({each.unit for each in observations})


def test_a_killed_controller_goes_on_and_a_new_rollout_replaces_the_last(world):
    w = world()
    driver = RolloutDriver(w.journal)
    state = asyncio.run(driver.step(w.state))
    asyncio.run(driver.step(state))
    fresh = RolloutDriver(w.journal)
    assert asyncio.run(fresh.step(w.state)) is None
    assert fresh.summary["phase"] == "comparing"
    w.change(changes.rolled_back, by="ann", reason="enough")
    asyncio.run(fresh.step(w.state))
    assert fresh.summary["status"] == "rolled_back"
    w.change(lambda now: changes.with_rollout(now, w.config, ""), by="ann", reason="again")
    asyncio.run(fresh.step(w.state))
    assert (fresh.summary["id"], fresh.summary["status"]) == (w.state.rollout.id, "running")
