"""How many replicas are wanted, by a clock that the test moves."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.scaling import BURST_SECONDS, Bounds, Scale, decide, needed

BOUNDS = Bounds(least=1, most=4, target_ongoing=10, idle_seconds=60)


def go_on(scale, bounds, loads, every=0.5, start=0.0):
    """The targets over a sequence of looks."""
    targets = []
    for index, requests in enumerate(loads):
        scale = decide(scale, requests, bounds, start + index * every)
        targets.append(scale.target)
    return targets, scale


@pytest.mark.parametrize(("requests", "replicas"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (400, 4)])
def test_each_replica_gets_the_requests_that_it_should_have(requests, replicas):
    assert needed(requests, BOUNDS) == replicas


def test_a_burst_adds_replicas_once_it_lasts_and_a_single_look_adds_none():
    assert go_on(Scale(1), BOUNDS, [35, 0, 35, 0])[0] == [1, 1, 1, 1]
    targets, _ = go_on(Scale(1), BOUNDS, [35, 35, 35])
    assert targets == [1, 1, 4]
    assert 0.5 < BURST_SECONDS <= 1.0  # two reports of gateways, no more


def test_replicas_are_given_up_after_the_quiet_time_down_to_what_was_needed_in_it():
    loads = [35] * 3 + [5] * 60 + [15] + [5] * 60
    targets, _ = go_on(Scale(1), BOUNDS, loads)
    assert targets[2:122] == [4] * 120
    assert targets[-1] == 2  # 15 in flight needed two of them


def test_use_within_the_quiet_time_keeps_every_replica():
    targets, _ = go_on(Scale(4), BOUNDS, ([0] * 100 + [35]) * 3)
    assert set(targets) == {4}


def test_an_engine_falls_asleep_and_one_request_wakes_it_at_once():
    bounds = replace(BOUNDS, least=0, idle_seconds=5)
    targets, scale = go_on(Scale(1), bounds, [0] * 12)
    assert targets == [1] * 10 + [0] * 2
    assert decide(scale, 0, bounds, 100).target == 0
    assert decide(scale, 1, bounds, 100).target == 1


def test_new_bounds_hold_at_once():
    assert decide(Scale(4), 40, replace(BOUNDS, most=2), 0).target == 2
    assert decide(Scale(1), 0, replace(BOUNDS, least=3), 0).target == 3


@given(
    loads=st.lists(st.integers(0, 200), min_size=1, max_size=200),
    least=st.integers(0, 3),
    extra=st.integers(0, 5),
    target=st.integers(0, 9),
)
def test_the_target_never_leaves_the_bounds_and_requests_never_find_zero_twice(loads, least, extra, target):
    bounds = Bounds(least, max(1, least + extra), 10, 2)
    scale = Scale(target)
    for index, requests in enumerate(loads):
        before = scale
        scale = decide(before, requests, bounds, index * 0.5)
        assert bounds.least <= scale.target <= bounds.most
        if requests and bounds.least <= before.target <= bounds.most:
            assert scale.target >= 1
