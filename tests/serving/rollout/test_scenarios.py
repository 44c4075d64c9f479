"""Whole rollouts with simulated users: what a team would see."""

from __future__ import annotations

import json

import pytest

from cluster.artifact import load_artifact, verify_artifact
from serving.control import changes
from serving.rollout.replay import replay_recorded
from serving.rollout.view import status_text

BUSY = {"users_per_second": 20.0}


def paused(world, reason="a look"):
    return world.change(changes.paused, by="ann", reason=reason)


def test_an_equal_candidate_is_promoted(world):
    w = world(**BUSY)
    assert w.to_the_end() == "promoted"
    assert w.share == 100
    assert w.kinds == ["start", "begin", "advance", "begin", "advance", "bake", "promote"]
    assert w.state.changed_by == f"rollout {w.state.rollout.id}"


def test_callers_that_never_stream_are_no_obstacle_unless_only_one_side_has_them(world, arm):
    rails = (
        {"metric": "error_rate", "margin": 0.1},
        {"metric": "first_token_seconds", "margin": 0.2, "optional": True},
    )
    whole = world(rollout={"guardrails": rails}, base=arm(streams=False), tuned=arm(streams=False), **BUSY)
    assert whole.to_the_end() == "promoted"
    strange = world(rollout={"guardrails": rails}, tuned=arm(streams=False), **BUSY)
    strange.until(lambda: False, 900)
    assert strange.status == "running"
    assert "never measured: first_token_seconds" in strange.run.machine.decisions[-1].why


@pytest.mark.parametrize("worse", [{"errors": 0.15}, {"first_token_s": 0.4}], ids=["errors", "first_token"])
def test_a_worse_candidate_is_rolled_back(world, arm, worse):
    w = world(tuned=arm(**worse), **BUSY)
    assert w.to_the_end() == "rolled_back"
    assert w.share == 0
    assert "is worse than base" in w.run.machine.decisions[-1].why


@pytest.mark.parametrize(
    ("metric", "worse"),
    [("token_seconds", {"token_s": 0.04}), ("latency_p95_seconds", {"latency_s": 2.0})],
    ids=["token", "p95"],
)
def test_a_candidate_that_is_merely_slower_is_rolled_back(world, arm, metric, worse):
    rollout = {"guardrails": ({"metric": metric, "margin": 0.1},)}
    w = world(rollout=rollout, tuned=arm(**worse), **BUSY)
    assert w.to_the_end() == "rolled_back"
    assert w.share == 0
    why = w.run.machine.decisions[-1].why
    assert "is worse than base" in why and metric in why
    assert world(rollout=rollout, **BUSY).to_the_end() == "promoted"


def test_a_better_candidate_passes_a_superiority_test(world, arm):
    rails = ({"metric": "first_token_seconds", "test": "superiority"},)
    better = world(rollout={"guardrails": rails}, tuned=arm(first_token_s=0.15), **BUSY)
    assert better.to_the_end() == "promoted"
    equal = world(rollout={"guardrails": rails, "on_timeout": "rollback", "maximum_seconds": 400}, **BUSY)
    assert equal.to_the_end() == "rolled_back"
    assert "not yet shown to hold" in equal.run.machine.decisions[-1].why


def test_an_error_burst_in_a_one_per_cent_step_is_stopped_there(world, arm):
    w = world(rollout={"steps": (1, 25, 50, 100), "minimum_units": 30, "minimum_seconds": 200}, users_per_second=100.0)
    w.until(lambda: w.run.machine.evidence.sides["candidate"]["units"] > 10, 600)
    w.arms["tuned"] = arm(errors=0.9)
    assert w.to_the_end(400) == "rolled_back"
    last = w.run.machine.decisions[-1]
    assert (last.step, last.share) == (1, 1)
    assert last.sides["candidate"]["units"] < 90


def test_lost_users_hold_the_rollout_and_nothing_promotes_it(world, arm):
    w = world(tuned=arm(lost=0.3), **BUSY)
    w.until(lambda: False, 900)
    assert w.status == "running"
    assert "hold" in w.kinds
    assert "sample ratio is wrong" in next(d.why for d in w.run.machine.decisions if d.what == "hold")
    assert "promote" not in w.kinds


def test_reported_metrics_are_guardrails(world, arm):
    rails = ({"metric": "liked", "margin": 0.1, "higher_is_better": True},)
    worse = world(rollout={"guardrails": rails}, base=arm(liked=0.7), tuned=arm(liked=0.35), **BUSY)
    assert worse.to_the_end() == "rolled_back"
    equal = world(rollout={"guardrails": rails}, base=arm(liked=0.7), tuned=arm(liked=0.7), **BUSY)
    assert equal.to_the_end() == "promoted"


def test_requests_may_be_the_units(world, arm):
    assert world(rollout={"unit": "request"}, without_key=0.5, **BUSY).to_the_end() == "promoted"
    worse = world(rollout={"unit": "request"}, without_key=0.5, tuned=arm(errors=0.2), **BUSY)
    assert worse.to_the_end() == "rolled_back"


def test_fallen_back_requests_count_against_the_assigned_variant(world, arm):
    w = world(tuned=arm(errors=0.01, fallback=0.2), **BUSY)
    assert w.to_the_end() == "rolled_back"
    last = w.run.machine.decisions[-1]
    assert last.sides["candidate"]["fallback"] > 0
    assert last.sides["baseline"]["fallback"] == 0


def test_retried_requests_count_with_what_the_caller_saw(world, arm):
    w = world(tuned=arm(retried=0.5), **BUSY)
    assert w.to_the_end() == "promoted"
    assert max(decision.sides["candidate"]["retried"] for decision in w.run.machine.decisions) > 0


def test_users_without_a_key_are_left_out_and_counted(world):
    w = world(without_key=0.4, **BUSY)
    assert w.to_the_end() == "promoted"
    excluded = w.run.machine.decisions[2].excluded
    assert excluded["baseline.without_user"] > 100
    assert excluded["candidate.without_user"] > 10


def test_returning_users_count_once_a_step(world):
    rails = ({"metric": "error_rate", "margin": 0.15},)
    w = world(population=400, rollout={"minimum_units": 20, "guardrails": rails}, **BUSY)
    assert w.to_the_end() == "promoted"
    for decision in w.run.machine.decisions:
        assert sum(side["units"] for side in decision.sides.values()) <= 400
    assert sum(w.run.machine.decisions[-1].sides["candidate"].values()) > 0, "they count again in the next step"


def test_pause_resume_and_the_hand_on_the_weights(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    paused(w)
    w.until(lambda: False, 200)
    assert (w.status, w.share, w.kinds[-1]) == ("paused", 10, "pause")
    assert w.run.machine.evidence.sides["baseline"]["units"] > 100
    w.change(lambda state: changes.with_weights(state, {"base": 70, "tuned": 30}), by="ann", reason="a try")
    w.until(lambda: False, 30)
    assert (w.kinds[-1], w.share) == ("weights", 30)
    w.change(changes.resumed, by="ann", reason="go on")
    assert w.to_the_end() == "promoted"
    by_hand = [(d.what, d.by, d.why) for d in w.run.machine.decisions if d.by != "rollout"]
    assert [each[:2] for each in by_hand[1:]] == [("pause", "ann"), ("weights", "ann"), ("resume", "ann")]


def test_two_changes_between_two_looks_have_their_own_authors(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    paused(w, "ann's reason")
    w.change(changes.resumed, by="bob", reason="bob's reason")
    w.change(changes.rolled_back, by="eve", reason="eve's reason")
    w.tick()
    hand = [(d.what, d.by, d.why) for d in w.run.machine.decisions[-3:]]
    assert hand == [
        ("pause", "ann", "ann's reason"),
        ("resume", "bob", "bob's reason"),
        ("rollback", "eve", "eve's reason"),
    ]


@pytest.mark.parametrize(
    ("operation", "status", "share"), [(changes.promoted, "promoted", 100), (changes.rolled_back, "rolled_back", 0)]
)
def test_people_end_it(world, operation, status, share):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    w.change(operation, by="ann", reason="we know")
    assert w.to_the_end(60) == status
    assert w.share == share
    assert w.run.machine.decisions[-1].by == "ann"


def test_an_aa_rollout_finishes_and_gives_the_users_back(world):
    w = world(rollout={"mode": "aa", "steps": None}, **BUSY)
    assert w.to_the_end() == "finished"
    assert w.share == 0
    assert w.kinds == ["start", "begin", "finish"]


def test_a_rollout_without_its_decision_never_reaches_a_user(world):
    w = world(rollout={"gate": "newest"}, **BUSY)
    assert w.to_the_end(60) == "rolled_back"
    assert all(state.weights["tuned"] == 0 for state in w.journal.history())
    assert "no evaluation decision" in w.run.machine.decisions[-1].why


def test_weights_of_others_stay_as_they_are(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.step == 1, 200)
    for state in w.journal.history():
        assert sum(state.weights.values()) == pytest.approx(100)
    assert w.state.allocation().shares()["tuned"] == pytest.approx(w.share / 100)


def test_the_record_tells_the_whole_story(world, arm):
    w = world(tuned=arm(errors=0.3), **BUSY)
    w.to_the_end()
    end = [json.loads(data) for key, data in w.store.objects.items() if "/events-" in key][-1]["events"][-1]
    artifact = load_artifact(w.store, end["record"])
    assert artifact is not None
    assert verify_artifact(w.store, artifact) == []
    assert artifact.details["outcome"] == "rolled_back"
    assert artifact.counts["candidate.units"] == w.run.machine.decisions[-1].sides["candidate"]["units"]
    page = w.store.read(artifact.key("report.html")).decode()
    for text in ("rolled back", "error_rate", "Share of the pair", "is worse than base", "polyline"):
        assert text in page
    decisions = json.loads(w.store.read(artifact.key("decisions.json")))["decisions"]
    assert decisions == [decision.encode() for decision in replay_recorded(w.store, w.name, "tuned-2").decisions]
    w.crash()
    written = w.store.writes
    for _ in range(20):
        w.tick()
    assert w.run.done
    assert w.store.writes == written, "a rollout that is over writes nothing more"


def test_a_rollout_that_ended_while_no_controller_looked_gets_its_record(world):
    w = world(**BUSY)
    w.until(lambda: w.run.machine.phase == "comparing", 60)
    w.change(changes.rolled_back, by="ann", reason="enough")
    w.change(lambda state: changes.with_rollout(state, w.config, ""), by="bob", reason="again")
    w.change(lambda state: state.model_copy(update={"model_name": "other"}), by="eve", reason="a name")
    w.crash()
    records = [load_artifact(w.store, f"RolloutRecord/{name}") for name in w.store.folders("RolloutRecord")]
    assert [(each.details["rollout"], each.details["outcome"], each.details["why"]) for each in records if each] == [
        ("tuned-2", "rolled_back", "enough")
    ]
    assert w.state.rollout.id != "tuned-2"
    assert (w.run.machine.decisions[0].by, w.to_the_end()) == ("bob", "promoted")


def test_slow_answers_of_one_side_are_no_wrong_sample_ratio(world, arm):
    """Twenty seconds more until an answer is told must not look like lost users."""
    for unit in ("user", "request"):
        w = world(rollout={"unit": unit, "window_seconds": 30, "maximum_seconds": 300, "minimum_seconds": 250}, **BUSY)
        told_later = []
        for _ in range(250):
            w.tick(traffic=False)
            observations, _ = w.traffic()
            told_later += [(w.now + 20 * (each.variant == "tuned"), each) for each in observations]
            w.run.observe([each for at, each in told_later if at <= w.now], [])
            told_later = [(at, each) for at, each in told_later if at > w.now]
        assert "hold" not in w.kinds
        assert w.run.machine.evidence.ratio_p > 0.05


def test_the_summary_is_plain_json_at_every_moment(world):
    w = world(**BUSY)
    while not w.run.done:
        w.tick()
        summary = json.loads(json.dumps(w.run.summary(), allow_nan=False))
        assert summary["id"] == "tuned-2"
        assert summary["status"] in ("running", "promoted")
    assert summary["decision"]["what"] == "promote"


@pytest.mark.parametrize("share", [10, 100])
def test_a_night_without_the_endpoint_promotes_and_rolls_back_nothing(world, share):
    """Stopped in a step or in the bake, and started again long after every time of it has gone by."""
    rollout = {"on_timeout": "rollback", "maximum_seconds": 3600, "bake_seconds": 600}
    w = world(rollout=rollout, users_per_second=20.0)
    assert w.until(lambda: w.share == share and w.run.machine.phase in ("comparing", "baking"), 2000)
    w.until(lambda: not w.run.log.pending, 30)
    elapsed = w.run.machine.elapsed(w.now)
    w.now += 50_000
    w.crash()
    for _ in range(5):
        w.tick(traffic=False)
    assert w.status == "running"
    assert w.run.machine.elapsed(w.now) < elapsed + 20
    w.tick(traffic=False)
    assert w.to_the_end() == "promoted"
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def test_a_bake_without_traffic_waits_for_users(world):
    w = world(users_per_second=20.0)
    assert w.until(lambda: w.run.machine.phase == "baking", 2000)
    files = len(w.store.objects)
    for _ in range(3000):
        w.tick(traffic=False)
    assert (w.status, w.kinds[-1]) == ("running", "hold")
    assert 8 <= len(w.store.objects) - files <= 15, "a heartbeat now and then, so that a stop is told from quiet"
    assert w.run.machine.elapsed(w.now) > 2900, "quiet is time of the step"
    assert w.to_the_end() == "promoted"


def test_no_step_passes_while_the_candidate_has_no_engine_and_its_time_runs_on(world):
    """What is compared goes on, and so does the time-out."""
    w = world(rollout={"on_timeout": "rollback", "maximum_seconds": 300}, **BUSY)
    assert w.until(lambda: w.run.machine.phase == "comparing", 10)
    w.ready = {"base"}
    w.until(lambda: False, 200)
    summary = w.run.summary()
    assert (w.share, summary["step"], summary["waits_for"], summary["phase"]) == (10, 1, "tuned", "comparing")
    assert summary["elapsed_seconds"] >= 199 and summary["left_seconds"] is None
    assert w.kinds == ["start", "begin", "hold"]
    assert "no engine of tuned answers" in w.run.machine.decisions[-1].why
    assert "comparing, waiting until an engine of tuned answers" in status_text(summary)
    w.crash()
    assert w.run.machine.waits_for == "tuned"
    assert w.to_the_end() == "rolled_back"
    assert "no engine of tuned answers" in w.run.machine.decisions[-1].why
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def test_a_step_passes_once_the_candidates_engine_answers_again(world):
    w = world(**BUSY)
    assert w.until(lambda: w.run.machine.phase == "comparing", 10)
    w.ready = {"base"}
    w.until(lambda: False, 200)
    w.ready = None
    w.tick()
    assert (w.share, w.kinds[-2:]) == (50, ["hold", "advance"])
    assert w.until(lambda: w.run.machine.phase == "baking", 2000)
    w.ready = {"base"}
    w.until(lambda: False, 200)
    assert (w.status, w.kinds[-1]) == ("running", "hold")
    w.ready = None
    assert w.to_the_end() == "promoted"
    assert replay_recorded(w.store, w.name, "tuned-2").equal


@pytest.mark.parametrize("dies_after_s", [20, 55])
def test_a_candidate_that_dies_before_its_step_passes_is_rolled_back(world, arm, dies_after_s):
    """At the later moment its failures are not counted yet when the step has its least time and users."""
    w = world(**BUSY)
    assert w.until(lambda: w.run.machine.phase == "comparing", 10)
    w.until(lambda: False, dies_after_s)
    w.arms["tuned"], w.ready = arm(errors=1.0), {"base"}
    assert w.until(lambda: w.status == "rolled_back", 60)
    assert w.state.weights == {"base": 100.0, "tuned": 0.0}
    assert "worse than base on error_rate" in w.run.machine.decisions[-1].why
    assert replay_recorded(w.store, w.name, "tuned-2").equal


@pytest.mark.parametrize("how", ["killed", "by_hand", "began_with_users"])
def test_whoever_is_on_a_candidate_whose_step_waits_is_watched(world, arm, how):
    """Its engine dies when the step is decided and not in force, or the weights are another's: nobody is left alone."""
    w = world(rollout={"steps": (20, 50, 100)}, **BUSY)
    if how == "began_with_users":
        w.change(lambda state: moved(state, 10), by="ann", reason="a try before")
    elif how == "killed":
        assert w.until(lambda: w.run.machine.phase == "comparing", 10)
        action = None
        while action is None:
            w.now += 1
            w.run.observe(*w.traffic())
            action = w.run.tick(w.now, w.state)
        assert w.kinds[-1] == "advance"
        w.crash()
    else:
        assert w.until(lambda: w.run.machine.phase == "comparing", 10)
        paused(w)
        w.change(lambda state: moved(state, 10), by="ann", reason="fewer")
        w.tick()
        w.change(changes.resumed, by="ann", reason="go on")
    w.arms["tuned"], w.ready = arm(errors=1.0), {"base"}
    w.tick()
    summary = w.run.summary()
    assert (summary["phase"], summary["waits_for"], w.kinds[-1]) == ("waiting", "tuned", "hold")
    w.tick()
    w.crash()
    assert w.run.machine.phase == "waiting"
    assert w.until(lambda: w.status == "rolled_back", 90)
    assert w.state.weights["tuned"] == 0
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def test_a_step_that_was_watched_while_it_waited_begins_when_an_engine_answers(world):
    w = world(**BUSY)
    w.change(lambda state: moved(state, 5), by="ann", reason="a try before")
    w.ready = {"base"}
    w.until(lambda: False, 100)
    paused(w)
    w.tick()
    w.change(changes.resumed, by="ann", reason="go on")
    w.tick()
    assert (w.share, w.run.machine.phase, w.kinds.count("hold")) == (5, "waiting", 1), "a pause begins nothing anew"
    w.ready = None
    assert w.to_the_end() == "promoted"
    assert w.kinds[-7:] == ["resume", "begin", "advance", "begin", "advance", "bake", "promote"]
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def moved(state, share):
    weights = {"base": 100.0 - share, "tuned": float(share)}
    if state.rollout.status == "paused":
        return changes.with_weights(state, weights)
    return changes.moved_by_rollout(state, state.rollout.id, weights, None)  # as if it had begun with them


ERRORS = {"metric": "error_rate", "margin": 0.05}
P95 = {"metric": "latency_p95_seconds", "margin": 0.3}
FIRST = {"metric": "first_token_seconds", "margin": 0.3}


@pytest.mark.parametrize(
    ("rails", "streams", "patience_s"),
    [
        ((P95,), True, 0.9),
        ((P95,), False, 15.0),
        ((ERRORS, FIRST), True, 2.0),
        ((ERRORS, FIRST), False, 5.0),
        ((ERRORS,), False, 5.0),
        ((ERRORS,), True, 15.0),
    ],
)
def test_a_candidate_that_hangs_until_callers_give_up_is_never_promoted(world, arm, rails, streams, patience_s):
    """Two of three requests hang; clients leave and ask again, until one is answered."""
    hangs = arm(streams=streams, hangs=2 / 3, patience_s=patience_s)
    w = world(rollout={"guardrails": rails}, base=arm(streams=streams), tuned=hangs, **BUSY)
    assert w.until(lambda: w.kinds[-1] in ("hold", "rollback"), 900)
    w.until(lambda: w.status != "running", 100)
    last = w.run.machine.decisions[-1]
    assert (w.status, last.what) in (("rolled_back", "rollback"), ("running", "hold"))
    assert last.sides["candidate"]["gave_up"] > last.sides["candidate"]["requests"] / 2
    assert replay_recorded(w.store, w.name, "tuned-2").equal


def test_a_candidate_that_begins_to_hang_in_the_bake_is_not_promoted(world, arm):
    w = world(rollout={"guardrails": (ERRORS,)}, **BUSY)
    assert w.until(lambda: w.run.machine.phase == "baking", 2000)
    w.arms["tuned"] = arm(hangs=2 / 3)
    w.until(lambda: w.status != "running", 300)
    assert (w.status, w.kinds[-1]) == ("running", "hold")
    assert "callers leave tuned before it answers" in w.run.machine.decisions[-1].why


def test_impatient_callers_on_both_sides_are_no_obstacle(world, arm):
    either = arm(hangs=0.01, patience_s=0.2)
    w = world(rollout={"guardrails": (ERRORS, P95, FIRST)}, base=either, tuned=either, **BUSY)
    assert w.to_the_end() == "promoted"
