"""The shared timer of resting streams, on a clock that the test moves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.pulse import Pulse


@dataclass(eq=False)
class Timer:
    """A call that is to come."""

    when: float
    call: Callable[[], None]
    timers: list[Any]

    def cancel(self) -> None:
        self.timers.remove(self)


class Clock:
    """What a pulse asks of an event loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when, call):
        timer = Timer(when, call, self.timers)
        self.timers.append(timer)
        return timer

    def run_to(self, when: float) -> None:
        self.now = when
        for timer in [each for each in self.timers if each.when <= when]:
            timer.cancel()
            timer.call()


def test_all_that_rest_wake_at_one_beat_by_one_timer():
    clock, woken = Clock(), []
    pulse = Pulse(clock)
    clock.now = 12.003
    for name in "abc":
        pulse.wait(pulse.end(0.01), lambda name=name: woken.append(name))
    assert len(clock.timers) == 1
    clock.run_to(12.009)
    assert woken == []
    clock.run_to(12.0101)
    assert woken == ["a", "b", "c"] and clock.timers == []
    pulse.wait(pulse.end(0.01), lambda: woken.append("again"))
    clock.run_to(12.0201)
    assert woken[3:] == ["again"]


@pytest.mark.parametrize("beats", [(0.01, 1.0), (1.0, 0.01)])
def test_who_waits_for_a_later_beat_wakes_with_the_sooner_one(beats):
    clock, woken = Clock(), []
    pulse = Pulse(clock)
    for beat in beats:
        pulse.wait(beat, lambda beat=beat: woken.append(beat))
    assert len(clock.timers) == 1
    clock.run_to(0.01)
    assert woken == list(beats)


@given(st.floats(0, 1e6), st.floats(1e-3, 1))
def test_an_interval_ends_after_now_and_within_its_length(now, seconds):
    clock = Clock()
    clock.now = now
    end = Pulse(clock).end(seconds)
    assert now - 1e-6 <= end <= now + seconds + 1e-6
