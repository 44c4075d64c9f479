"""Whatever happens in whatever order, the machine never does what it must not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.rollout.machine import ENDED, Machine
from serving.rollout.units import SIDES, Unit

PAIR = {"base": 100.0, "tuned": 0.0}


def start(**changes):
    values = {"kind": "start", "at": 0.0, "why": "plan", "by": "tester", "refusal": "", "weights": PAIR}
    return values | changes


def state(at, share, status="running", version=5, by="someone", reason="because"):
    return {
        "kind": "state",
        "at": at,
        "version": version,
        "status": status,
        "weights": {"base": 100.0 - share, "tuned": share},
        "candidate_share": share / 100,
        "by": by,
        "reason": reason,
    }


def units(at, count, bad_share=0.0, base_share=0.0, of_candidate=0.5, key="u"):
    """``count`` units, spread evenly; the given shares of each side fail."""
    made = []
    number = {False: 0, True: 0}
    for index in range(count):
        candidate = int((index + 1) * of_candidate) > int(index * of_candidate)
        share = bad_share if candidate else base_share
        failed = int((number[candidate] + 1) * share) > int(number[candidate] * share)
        number[candidate] += 1
        side = "candidate" if candidate else "baseline"
        first = None if failed else -1.0 + 0.1 * (index % 5)
        made.append(Unit(side, f"{key}{at}-{index}", errors=int(failed), first=first).encode())
    return {"kind": "units", "at": at, "units": made, "excluded": {}}


def machine_at(config, *events):
    machine = Machine(config)
    for event in (start(), *events):
        machine.apply(event)
    return machine


def kinds(machine):
    return [decision.what for decision in machine.decisions]


def test_it_waits_until_its_weights_are_in_force(rollout_config):
    machine = machine_at(rollout_config(), state(1.0, 0.0))
    assert (machine.phase, machine.target, machine.version) == ("moving", 10, None)
    machine.apply(state(2.0, 10.0, version=6))
    assert (machine.phase, machine.version) == ("comparing", 6)


def test_an_early_step_passes_when_time_and_units_have_come_and_no_harm_is_shown(rollout_config):
    machine = machine_at(rollout_config(), state(0.0, 10.0), units(10.0, 600, of_candidate=0.1))
    assert kinds(machine) == ["start", "begin"], "the least time is not over"
    assert not machine.due(59.9)
    assert machine.due(60.0)
    machine.apply(units(60.0, 0))
    assert kinds(machine)[-1] == "advance"
    assert machine.target == 50


def test_too_few_units_do_not_pass(rollout_config):
    machine = machine_at(rollout_config(), state(0.0, 10.0), units(70.0, 490, of_candidate=0.1))
    assert machine.evidence.sides["candidate"]["units"] == 49
    assert kinds(machine)[-1] == "begin"
    machine.apply(units(71.0, 10, of_candidate=0.1))
    assert kinds(machine)[-1] == "advance"


def test_the_last_compared_step_holds_until_guardrails_are_shown(rollout_config):
    events = [state(0.0, 10.0), units(60.0, 600, of_candidate=0.1), state(61.0, 50.0, version=7)]
    machine = machine_at(rollout_config(), *events, units(130.0, 110))
    assert kinds(machine)[-1] == "hold"
    assert "not yet shown to hold: error_rate" in machine.decisions[-1].why
    machine.apply(units(131.0, 20))
    assert kinds(machine)[-1] == "hold", "said once, not at every look"
    machine.apply(units(132.0, 1000))
    assert kinds(machine)[-1] == "advance"
    machine.apply(state(133.0, 100.0, version=8))
    assert kinds(machine)[-1] == "bake"
    machine.apply(units(192.0, 50, of_candidate=1.0))
    assert machine.status == "running"
    machine.apply(units(193.0, 0))
    assert (machine.status, machine.target) == ("promoted", 100)


def test_every_step_may_be_required_to_show(rollout_config):
    few = [state(0.0, 10.0), units(60.0, 600, of_candidate=0.1)]
    assert kinds(machine_at(rollout_config(require="last_step"), *few))[-1] == "advance"
    assert kinds(machine_at(rollout_config(require="every_step"), *few))[-1] == "hold"


def test_harm_rolls_back_at_once(rollout_config):
    machine = machine_at(rollout_config(), state(0.0, 10.0), units(1.0, 600, bad_share=0.5, of_candidate=0.1))
    assert (machine.status, machine.target) == ("rolled_back", 0)
    decision = machine.decisions[-1]
    assert decision.what == "rollback"
    assert "tuned is worse than base on error_rate by more than 0.05" in decision.why
    finding = next(each for each in decision.findings if each.metric == "error_rate")
    assert finding.p_harm <= machine.config.alarm_alpha < finding.p_pass
    assert finding.estimate == 0.5
    assert (finding.baseline_units, finding.candidate_units) == (540, 60)


def test_evidence_once_seen_stays(rollout_config):
    """Always-valid p-values are the least over time: they never rise, whatever comes later."""
    machine = machine_at(rollout_config(alpha=0.0001), state(0.0, 10.0))
    least = {}
    for at, bad in enumerate([0.6] * 2 + [0.0] * 100 + [0.6] * 60):
        machine.apply(units(2.0 + at, 40, bad_share=bad, of_candidate=0.5))
        for finding in machine.evidence.findings():
            before = least.setdefault(finding.metric, (1.0, 1.0))
            least[finding.metric] = (finding.p_harm, finding.p_pass)
            assert all(now <= then for now, then in zip(least[finding.metric], before, strict=True))
    assert max(least["error_rate"]) < 1, "there was some, first of harm and then of holding"


def test_harm_while_baking_rolls_back(rollout_config):
    events = [state(0.0, 10.0), units(60.0, 600, of_candidate=0.1), state(61.0, 50.0), units(130.0, 1200)]
    machine = machine_at(rollout_config(), *events, state(131.0, 100.0))
    assert machine.phase == "baking"
    machine.apply(units(140.0, 200, bad_share=0.4, of_candidate=1.0))
    assert (machine.status, machine.target) == ("rolled_back", 0)


def test_nothing_is_promoted_that_nobody_asked_at_full_share(rollout_config):
    events = [state(0.0, 10.0), units(60.0, 600, of_candidate=0.1), state(61.0, 50.0), units(130.0, 1200)]
    machine = machine_at(rollout_config(), *events, state(131.0, 100.0), units(191.0, 49, of_candidate=1.0))
    assert (kinds(machine)[-1], machine.status) == ("hold", "running")
    assert "49 units at 100 % showed no harm, but it takes 50" in machine.decisions[-1].why
    assert not machine.due(99_999.0), "said once"
    machine.apply(units(99_999.0, 1, of_candidate=1.0))
    assert machine.status == "promoted"


def test_time_that_nobody_observed_is_no_time_of_the_step(rollout_config):
    night = {"kind": "away", "at": 50_000.0, "seconds": 40_000.0}
    machine = machine_at(rollout_config(on_timeout="rollback"), state(9_990.0, 10.0), night)
    assert machine.elapsed(50_001.0) == 11.0
    machine.apply(units(50_020.0, 600, of_candidate=0.1))
    assert kinds(machine)[-1] == "begin", "the least time is not over"
    machine.apply(units(50_050.0, 0))
    assert kinds(machine)[-1] == "advance"


def test_a_night_within_a_pause_is_taken_off_once(rollout_config):
    events = [state(0.0, 10.0), state(10.0, 10.0, "paused"), {"kind": "away", "at": 9_000.0, "seconds": 8_000.0}]
    machine = machine_at(rollout_config(on_timeout="rollback"), *events, state(9_010.0, 10.0, "running"))
    # 9,010 s less 8,000 s of nobody and 1,000 s of pause: 10 s of the 7,200 have gone by.
    machine.apply(units(9_010.0 + 7_189.0, 20))
    assert machine.status == "running"
    machine.apply(units(9_010.0 + 7_190.0, 20))
    assert machine.status == "rolled_back"


def test_a_wrong_sample_ratio_holds_and_never_promotes(rollout_config):
    config = rollout_config(minimum_units=10)
    machine = machine_at(config, state(0.0, 10.0), units(60.0, 2000, of_candidate=0.05))
    assert kinds(machine)[-1] == "hold"
    assert "100 of 2,000 units are on tuned" in machine.decisions[-1].why
    for at in range(100, 7000, 500):
        machine.apply(units(float(at), 100, of_candidate=0.1))
    assert kinds(machine).count("hold") == 1
    machine.apply(units(7300.0, 0))
    assert kinds(machine)[-1] == "timeout"
    assert "the sample ratio is wrong" in machine.decisions[-1].why
    assert machine.status == "running"


def test_harm_counts_although_the_sample_ratio_is_wrong(rollout_config):
    machine = machine_at(rollout_config(), state(0.0, 10.0), units(60.0, 2000, bad_share=0.6, of_candidate=0.05))
    assert machine.status == "rolled_back"


def test_a_timeout_holds_or_rolls_back(rollout_config):
    late = [state(0.0, 10.0), units(7200.0, 20)]
    held = machine_at(rollout_config(on_timeout="hold"), *late)
    assert (kinds(held)[-1], held.status) == ("timeout", "running")
    assert "base has 10 and tuned has 10 of 50 units" in held.decisions[-1].why
    held.apply(units(7300.0, 900, of_candidate=0.1))
    assert kinds(held)[-1] == "advance", "it may still pass"
    back = machine_at(rollout_config(on_timeout="rollback"), *late)
    assert (back.decisions[-1].what, back.status, back.target) == ("rollback", "rolled_back", 0)


def test_a_guardrail_without_data_is_named(rollout_config):
    config = rollout_config(guardrails=({"metric": "token_seconds", "margin": 0.2},), steps=(50, 100))
    machine = machine_at(config, state(0.0, 50.0), units(100.0, 500))
    assert "never measured: token_seconds" in machine.decisions[-1].why


def test_paused_it_observes_and_decides_nothing(rollout_config):
    machine = machine_at(rollout_config(), state(0.0, 10.0), state(1.0, 10.0, "paused", by="ann", reason="lunch"))
    assert (machine.decisions[-1].what, machine.decisions[-1].by, machine.decisions[-1].why) == (
        "pause",
        "ann",
        "lunch",
    )
    machine.apply(units(70.0, 600, bad_share=0.5, of_candidate=0.1))
    assert kinds(machine)[-1] == "pause"
    assert machine.evidence.sides["candidate"]["units"] == 60
    machine.apply(state(80.0, 10.0, "running", by="ann"))
    machine.apply(units(81.0, 0))
    assert kinds(machine)[-2:] == ["resume", "rollback"]


def test_a_pause_does_not_time_a_step_out(rollout_config):
    paused = [state(0.0, 10.0), state(10.0, 10.0, "paused"), state(9000.0, 10.0, "running")]
    machine = machine_at(rollout_config(), *paused, units(9001.0, 20))
    assert kinds(machine)[-1] == "resume"
    machine.apply(units(9000.0 + 7190.0, 20))
    assert kinds(machine)[-1] == "timeout"


def test_weights_changed_while_paused_begin_the_step_anew(rollout_config):
    events = [state(0.0, 10.0), units(5.0, 600, of_candidate=0.1), state(10.0, 10.0, "paused")]
    machine = machine_at(rollout_config(), *events, state(20.0, 30.0, "paused", version=9))
    assert (machine.version, kinds(machine)[-1]) == (None, "weights")
    assert machine.target is None, "while it is paused the weights are the people's"
    machine.apply(state(30.0, 30.0, "running", version=10))
    assert machine.target == 10
    machine.apply(state(31.0, 10.0, "running", version=11))
    assert (machine.version, machine.evidence.sides["candidate"]["units"]) == (11, 0)


def test_people_promote_and_roll_back(rollout_config):
    for status, what, target in (("promoted", "promote", 100), ("rolled_back", "rollback", 0)):
        machine = machine_at(rollout_config(), state(0.0, 10.0), state(5.0, 10.0, status, by="ann", reason="enough"))
        last = machine.decisions[-1]
        assert (last.what, last.by, last.why) == (what, "ann", "enough")
        assert (machine.status, machine.target, machine.phase) == (status, target, "over")


def test_a_refused_gate_goes_straight_back(rollout_config):
    machine = Machine(rollout_config())
    machine.apply(start(refusal="no request may reach the candidate: there is no decision"))
    machine.apply(state(1.0, 0.0))
    assert (machine.status, machine.target, kinds(machine)) == ("rolled_back", 0, ["start", "rollback"])


def test_an_aa_rollout_reports_alarms_and_never_promotes(rollout_config):
    config = rollout_config(mode="aa", steps=None)
    assert config.steps == (50,)
    quiet = machine_at(config, state(0.0, 50.0), units(60.0, 400))
    assert (quiet.status, quiet.decisions[-1].why, quiet.target) == ("finished", "no false alarm", 0)
    loud = machine_at(config, state(0.0, 50.0), units(30.0, 400, bad_share=0.5), units(31.0, 10), units(60.0, 0))
    assert kinds(loud) == ["start", "begin", "false_alarm", "finish"]
    assert "1 false alarm" in loud.decisions[-1].why


def test_alarms_share_alpha_over_steps_and_kinds(rollout_config):
    assert rollout_config().alarm_alpha == 0.05 / (2 * 4 + 2)
    assert rollout_config(mode="aa", steps=None).alarm_alpha == 0.05 / 4
    without_errors = rollout_config(guardrails=({"metric": "token_seconds", "margin": 0.2},))
    assert without_errors.alarm_alpha == 0.05 / (2 * 3 + 1)


shares = st.sampled_from([0.0, 10.0, 30.0, 50.0, 100.0])
events = st.lists(
    st.one_of(
        st.tuples(st.just("state"), shares, st.sampled_from(["running", "paused", "promoted", "rolled_back"])),
        st.tuples(st.just("follow"), st.just(0.0), st.just("running")),
        st.tuples(
            st.just("units"),
            st.sampled_from([0, 3, 60, 700]),
            st.tuples(
                st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.3]),
                st.sampled_from([0.0, 0.02]),
                st.sampled_from(["fair", "fair", "fair", "unfair"]),
            ),
        ),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(events, st.lists(st.sampled_from([0.5, 20.0, 70.0, 4000.0]), min_size=30, max_size=30), st.booleans())
def test_nothing_forbidden_ever_happens(rollout_config, script, gaps, every_step):
    config = rollout_config(require="every_step" if every_step else "last_step")
    machine = Machine(config)
    machine.apply(start())
    now, version, share = 0.0, 5, 0.0
    for (kind, first, second), gap in zip(script, gaps, strict=False):
        now += gap
        before = len(machine.decisions)
        status_before, phase, began, wanted = machine.status, machine.phase, machine.began, machine.version
        if kind == "units":
            bad, base, fair = second
            here = machine.shares[machine.step] / 100
            of_candidate = here if fair == "fair" else here / 2
            machine.apply(units(now, first, bad, base, of_candidate))
        else:
            version += 1
            share = first if kind == "state" else (machine.target if machine.target is not None else share)
            machine.apply(state(now, share, second, version))
        assert machine.target is None or 0 <= machine.target <= 100
        for decision in machine.decisions[before:]:
            check(decision, machine, kind, status_before, phase, now - began, wanted)
        if machine.status == "rolled_back":
            assert machine.target == 0
    numbers = [decision.number for decision in machine.decisions]
    assert numbers == list(range(1, len(numbers) + 1))


def check(decision, machine, kind, status_before, phase, elapsed, version):
    config = machine.config
    if decision.by != "rollout":
        assert kind != "units"
        return
    harmed = [each.metric for each in decision.findings if each.p_harm <= config.alarm_alpha]
    if decision.what in ("hold", "advance", "promote", "rollback", "timeout"):
        assert kind == "units"
        assert status_before == "running", "nothing is decided while it is paused or over"
        assert version is not None, "nothing is decided before the step's weights are in force"
    if decision.what in ("advance", "promote"):
        assert not harmed
    if decision.what == "advance":
        assert phase == "comparing"
        assert elapsed >= config.minimum_seconds
        assert min(decision.sides[side]["units"] for side in SIDES) >= config.minimum_units
        assert decision.ratio_p > config.alarm_alpha
        if config.require == "every_step" or decision.step == len(config.compared_steps):
            assert all(each.p_pass <= config.alpha for each in decision.findings)
    if decision.what == "promote":
        assert phase == "baking"
        assert decision.share == 100
        assert elapsed >= config.bake_seconds
        assert decision.sides["candidate"]["units"] >= config.minimum_units
    if decision.what == "rollback":
        assert harmed
        assert machine.status == "rolled_back"
    assert machine.status in (*ENDED, "running", "paused")
