"""Recorded events give the same decisions again, also when the controller dies at any moment."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from serving.control import changes
from serving.rollout import replay as replay_module
from serving.rollout.replay import replay_recorded, rollout_ids

BUSY = {"users_per_second": 20.0}


def event_files(world):
    return sorted(key for key in world.store.objects if "/events-" in key)


@pytest.mark.parametrize("tuned", [{}, {"errors": 0.2}, {"lost": 0.3}], ids=["equal", "worse", "lost"])
def test_offline_replay_gives_the_recorded_decisions(world, arm, tuned):
    w = world(tuned=arm(**tuned), **BUSY)
    w.to_the_end(500)
    replayed = replay_recorded(w.store, w.name, "tuned-2")
    assert replayed.equal
    assert list(replayed.decisions) == w.run.machine.decisions
    assert rollout_ids(w.store, w.name) == ["tuned-2"]


def test_a_decision_that_was_tampered_with_is_found(world):
    from serving.rollout.events import decode, encode

    w = world(**BUSY)
    w.to_the_end()
    key = next(key for key in event_files(w) if b'"advance"' in w.store.objects[key])
    events = decode(w.store.objects[key], key)
    decision = next(event for event in events if event["kind"] == "decision")["decision"]
    decision["why"] = "because I say so"
    w.store.objects[key] = encode(events)
    replayed = replay_recorded(w.store, w.name, "tuned-2")
    assert not replayed.equal
    assert replayed.differences == [decision["number"]]


def test_a_crash_after_any_file_ends_the_same_way(world):
    """Drop the memory after each event file in turn; what follows is recorded and replayed as one rollout."""
    plain = world(**BUSY)
    plain.to_the_end()
    for count in range(1, len(event_files(plain)), 5):
        w = world(**BUSY)
        w.until(lambda w=w, count=count: len(event_files(w)) >= count, 5000)
        before = list(w.run.machine.decisions)
        w.crash()
        assert w.run.machine.decisions == before
        assert w.to_the_end() == "promoted"
        assert replay_recorded(w.store, w.name, "tuned-2").equal
        assert w.run.machine.decisions[: len(before)] == before


def test_a_crash_between_a_decision_and_its_effect_repeats_the_effect_only(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    action = None
    while action is None:
        w.now += 1
        w.run.observe(*w.traffic())
        action = w.run.tick(w.now, w.state)
    w.crash()
    again = w.run.tick(w.now + 1, w.state)
    assert again == action
    assert w.kinds.count("advance") == 1


def test_units_that_were_counted_do_not_count_again_after_a_crash(world):
    w = world(population=300, **BUSY)
    w.until(lambda: w.run.machine.elapsed(w.now) > 55, 600)
    w.until(lambda: not w.run.log.pending, 30)
    w.crash()
    w.until(lambda: False, 100)
    for decision in w.run.machine.decisions:
        assert sum(side["units"] for side in decision.sides.values()) <= 300


def test_users_of_an_earlier_step_count_again_after_a_crash(world):
    w = world(population=300, rollout={"minimum_units": 20}, **BUSY)
    assert w.until(lambda: w.run.machine.step == 1 and w.run.machine.phase == "comparing", 600)
    w.crash()
    assert w.until(lambda: w.run.machine.elapsed(w.now) > 50, 100)
    assert sum(side["units"] for side in w.run.machine.evidence.sides.values()) > 200


def test_two_controllers_do_not_spoil_each_others_rollout(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    other = w.open()
    for _ in range(600):
        w.tick()
        other.observe(*w.traffic())
        other.tick(w.now, w.state)
        if w.status != "running":
            break
    assert w.status == "promoted"
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def test_a_damaged_file_is_left_out_and_named(world):
    w = world(**BUSY)
    w.until(lambda: len(event_files(w)) >= 8, 600)
    w.until(lambda: not w.run.log.pending, 30)
    torn = event_files(w)[-1]
    w.store.objects[torn] = w.store.objects[torn][: len(w.store.objects[torn]) // 2]
    w.crash()
    assert w.run.summary()["damaged"] == [torn]
    assert w.to_the_end() == "promoted"
    replayed = replay_recorded(w.store, w.name, "tuned-2")
    assert replayed.damaged == (torn,)


def test_a_damaged_beginning_is_an_error_with_its_place(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    w.store.objects[event_files(w)[0]] = b"{"
    with pytest.raises(UserError, match="first file of events is damaged"):
        replay_recorded(w.store, w.name, "tuned-2")


def test_an_unknown_rollout_names_those_that_are_there(world):
    w = world(**BUSY)
    w.tick()
    with pytest.raises(UserError, match="rollouts: tuned-2"):
        replay_recorded(w.store, w.name, "nonsense")


def test_a_store_that_is_away_loses_nothing_and_decides_nothing(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    w.until(lambda: not w.run.log.pending, 30)
    version = w.state.version
    w.store.broken = True
    failed = 0
    for _ in range(60):
        try:
            w.tick()
        except OSError:
            failed += 1
    w.store.broken = False
    assert failed > 30
    assert w.state.version == version
    assert w.to_the_end() == "promoted"
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def test_a_quiet_rollout_writes_few_files_and_a_busy_one_about_one_a_second(world):
    quiet = world(users_per_second=0.2)
    quiet.until(lambda: False, 1000)
    assert len(event_files(quiet)) <= 1000 / 10 + 3
    busy = world(rollout={"minimum_units": 10**6}, users_per_second=400.0, tick_s=0.5)
    busy.until(lambda: False, 30)
    assert len(event_files(busy)) <= 30 + 3


steps = st.lists(
    st.sampled_from(
        [
            "ticks",
            "ticks",
            "many",
            "crash",
            "pause",
            "resume",
            "weights",
            "promote",
            "rollback",
            "key",
            "dies",
            "answers",
        ]
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=15, deadline=None)
@given(steps, st.integers(0, 5), st.sampled_from([0.01, 0.01, 0.25]))
def test_replay_equals_whatever_people_and_crashes_do(world, arm, script, seed, errors):
    w = world(seed=seed, tuned=arm(errors=errors), rollout={"minimum_units": 20}, users_per_second=8.0)
    hand = {
        "pause": changes.paused,
        "resume": changes.resumed,
        "promote": changes.promoted,
        "rollback": changes.rolled_back,
        "weights": lambda state: changes.with_weights(state, {"base": 60, "tuned": 40}),
        "key": lambda state: state.model_copy(update={"model_name": state.model_name + "x"}),
    }
    for each in script:
        if each == "crash":
            w.crash()
        elif each in ("dies", "answers"):
            w.ready = {"base"} if each == "dies" else None
        elif each in ("ticks", "many"):
            w.until(lambda: False, 7 if each == "ticks" else 70)
        else:
            try:
                w.change(hand[each], by="ann", reason=each)
            except UserError:
                continue  # refused: nothing changed
    w.until(lambda: not w.run.log.pending, 30)
    replayed = replay_recorded(w.store, w.name, "tuned-2")
    assert replayed.equal
    assert list(replayed.decisions) == w.run.machine.decisions
    assert json.dumps(w.run.summary())
    for state in w.journal.history():
        assert sum(state.weights.values()) == pytest.approx(100)
        if state.rollout and state.rollout.status == "rolled_back":
            assert state.weights["tuned"] == 0 or state.changed_by == "ann"


def test_a_replay_keeps_keys_and_no_more_of_them_than_are_remembered(world, monkeypatch):
    w = world(rollout={"minimum_units": 10**6}, **BUSY)
    w.until(lambda: w.run.machine.evidence.sides["baseline"]["units"] > 200, 600)
    w.until(lambda: not w.run.log.pending, 30)
    monkeypatch.setattr(replay_module, "MAX_SEEN", 50)
    config, recorded = replay_module.read_events(w.store, w.name, "tuned-2")
    units = replay_module.fold(config, recorded.events).units
    assert len(units) == 50
    assert all(isinstance(each, str) for each in units)
