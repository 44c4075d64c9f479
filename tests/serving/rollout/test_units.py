"""Requests become units: each user once a step, for the variant it was assigned to."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.observation import Feedback, Observation
from serving.rollout import units as module
from serving.rollout.units import Collector, Unit, short_key


def seen(unit="ann", variant="tuned", at=0.0, **changes):
    values = {"keyed": True, "version": 5, "error": False} | changes
    return Observation(unit=unit, variant=variant, at=at, **values)


@pytest.fixture
def collect(rollout_config):
    def make(**settings):
        collector = Collector(rollout_config(**settings))
        collector.begin(5)
        return collector

    return make


def test_a_users_requests_in_the_window_are_one_unit(collect):
    collector = collect()
    collector.observe(
        [
            seen(at=0.0, first_token_s=0.1, token_s=0.01, latency_s=1.0),
            seen(at=4.0, first_token_s=0.4, token_s=0.04, latency_s=2.0, retried=True),
            seen(at=9.9, error=True, fallback=True),
            seen("bob", "base", at=1.0, latency_s=3.0),
        ]
    )
    assert collector.close(19.9) == [], "the window and the time for late answers are not over"
    ann, bob = collector.close(21.0)
    assert (ann.side, ann.key, ann.requests, ann.errors) == ("candidate", short_key("ann"), 3, 1)
    assert ann.error_fraction == pytest.approx(1 / 3)
    assert (ann.retried, ann.fallback) == (1, 1)
    assert ann.first == pytest.approx(math.log(0.2), abs=1e-5), "the geometric mean of 0.1 and 0.4"
    assert ann.latencies == (1.0, 2.0)
    assert (bob.side, bob.first, bob.latencies) == ("baseline", None, (3.0,))
    assert collector.take_excluded() == {}


def test_callers_who_give_up_tell_how_long_they_waited(collect):
    """Also where it counts as an error; what another variant answered has no times."""
    collector = collect()
    collector.observe(
        [
            seen(at=0.0, latency_s=1.0),
            seen(at=1.0, latency_s=3.0, gave_up=True),
            seen(at=5.0, latency_s=12.0, gave_up=True, error=True),
            seen(at=6.0, error=True, gave_up=True, fallback=True),
        ]
    )
    (ann,) = collector.close(100.0)
    assert (ann.latencies, ann.waited) == ((1.0,), (3.0, 12.0))
    assert (ann.requests, ann.gave_up, ann.gave_up_fraction, ann.errors) == (4, 3, 0.75, 2)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (seen(version=4), "earlier_step"),
        (seen(keyed=False), "without_user"),
        (seen("ann", "base", at=1.0), None),
    ],
)
def test_what_does_not_count_is_counted_as_such(collect, request_, reason):
    collector = collect()
    collector.observe([seen(at=0.0), request_])
    excluded = collector.take_excluded()
    assert excluded == ({f"candidate.{reason}": 1} if reason else {"baseline.changed_side": 1})
    assert [unit.requests for unit in collector.close(100.0)] == [1]


def test_a_user_counts_once_a_step(collect):
    collector = collect()
    collector.observe([seen(at=0.0), seen(at=10.5)])
    assert len(collector.close(30.0)) == 1
    collector.observe([seen(at=31.0)])
    assert collector.close(60.0) == []
    assert collector.take_excluded() == {"candidate.after_window": 1, "candidate.counted_before": 1}
    collector.begin(6)
    collector.observe([seen(at=61.0, version=6)])
    assert len(collector.close(90.0)) == 1


def test_other_variants_and_times_between_steps_are_nobodys(collect):
    collector = collect()
    collector.observe([seen(variant="third")])
    collector.begin(None)
    collector.observe([seen()])
    assert (collector.open, collector.take_excluded()) == (0, {})


def test_slow_answers_that_come_after_the_window_still_count(collect):
    collector = collect()
    collector.observe([seen(at=1.0, latency_s=0.5)])
    assert collector.close(12.0) == []
    collector.observe([seen(at=2.0, latency_s=13.0)])
    (unit,) = collector.close(21.0)
    assert unit.latencies == (0.5, 13.0)


def test_requests_as_units(collect):
    collector = collect(unit="request")
    collector.observe([seen(at=0.0), seen(at=1.0, error=True), seen("x1", keyed=False, at=2.0)])
    assert collector.close(9.9) == [], "slow answers of the same moment are still under way"
    units = collector.close(12.0)
    assert [unit.requests for unit in units] == [1, 1, 1]
    assert [unit.fresh for unit in units] == [True, False, True], "the sample ratio counts a user once"
    collector.observe([seen(at=13.0)])
    assert [unit.fresh for unit in collector.close(23.0)] == [False]


RAILS = (
    {"metric": "liked", "margin": 0.1, "higher_is_better": True},
    {"metric": "euros", "margin": 1.0, "higher_is_better": True, "bounded": False},
)


def test_reported_values_find_their_unit_by_user_or_by_request(collect):
    collector = collect(guardrails=RAILS)
    collector.observe([seen(at=0.0, request="r1")])
    collector.report(
        [
            Feedback("liked", 1.0, 1.0, unit="ann"),
            Feedback("liked", 0.0, 2.0, request="r1"),
            Feedback("euros", 12.5, 2.0, unit="ann"),
            Feedback("unasked", 1.0, 2.0, unit="ann"),
        ]
    )
    (unit,) = collector.close(50.0)
    assert unit.metrics == {"euros": 12.5, "liked": 0.5}


def test_reported_values_that_cannot_count(collect):
    collector = collect(guardrails=RAILS)
    collector.observe([seen(at=0.0)])
    collector.report(
        [
            Feedback("liked", 3.0, 1.0, unit="ann"),
            Feedback("euros", math.nan, 1.0, unit="ann"),
            Feedback("liked", 1.0, 11.0, unit="ann"),
            Feedback("liked", 1.0, 1.0, request="unheard"),
        ]
    )
    (unit,) = collector.close(50.0)
    assert unit.metrics == {}
    assert collector.take_excluded() == {
        "candidate.feedback_after_window": 1,
        "candidate.feedback_out_of_range": 2,
        "feedback.no_such_request": 1,
    }


def test_a_value_that_overtakes_its_request_waits_for_it(collect):
    collector = collect(guardrails=RAILS)
    collector.report([Feedback("liked", 1.0, 3.0, unit="ann")])
    assert collector.close(4.0) == []
    collector.observe([seen(at=2.0)])
    (unit,) = collector.close(50.0)
    assert unit.metrics == {"liked": 1.0}


def test_memory_is_bounded(collect, monkeypatch):
    for name, limit in (("MAX_OPEN", 10), ("MAX_SEEN", 15), ("MAX_LATENCIES", 3), ("MAX_ORPHANS", 4)):
        monkeypatch.setattr(module, name, limit)
    collector = collect(guardrails=RAILS)
    collector.observe([seen(f"user-{n}", at=0.0, latency_s=1.0, request=f"r{n}") for n in range(100)])
    collector.observe([seen("user-0", at=0.0, latency_s=1.0) for _ in range(100)])
    collector.report([Feedback("liked", 1.0, 0.0, request=f"none-{n}") for n in range(50)])
    assert collector.open == 10
    first = collector.close(100.0)
    assert max(len(unit.latencies) for unit in first) == 3
    collector.observe([seen(f"more-{n}", at=100.0) for n in range(100)])
    assert collector.open == 5, "no more users than fit are remembered"
    excluded = collector.take_excluded()
    assert excluded["candidate.beyond_capacity"] == 90 + 95
    assert excluded["feedback.beyond_capacity"] == 46


@given(
    st.builds(
        Unit,
        side=st.sampled_from(["baseline", "candidate"]),
        key=st.text(max_size=16),
        requests=st.integers(1, 50),
        errors=st.integers(0, 1),
        fresh=st.booleans(),
        first=st.none() | st.floats(-9, 9),
        token=st.none() | st.floats(-9, 9),
        latencies=st.lists(st.floats(0.001, 900), max_size=4).map(tuple),
        metrics=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        gave_up=st.integers(1, 9),
        waited=st.lists(st.floats(0.001, 900), max_size=4).map(tuple),
    )
)
def test_units_survive_their_record(unit):
    assert Unit.decode(json.loads(json.dumps(unit.encode()))) == unit


@given(st.permutations(range(6)))
def test_the_order_in_which_requests_are_told_does_not_matter(rollout_config, order):
    requests = [seen(at=float(n), error=n % 2 == 0, latency_s=1.0 + n, first_token_s=0.1 + n) for n in range(6)]
    collector = Collector(rollout_config())
    collector.begin(5)
    collector.observe([requests[n] for n in order])
    (unit,) = collector.close(100.0)
    assert (unit.requests, unit.errors, sorted(unit.latencies)) == (6, 3, [2.0, 4.0, 6.0])
    assert unit.first == pytest.approx(sum(math.log(0.1 + n) for n in range(6)) / 6, abs=1e-4)
