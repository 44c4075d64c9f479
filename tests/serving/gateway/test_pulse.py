"""The shared timer of resting streams, on a clock that the test moves."""

from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.pulse import Pulse


class Clock:
    """What a pulse asks of an event loop."""

    def __init__(self) -> None:
        self.now, self.timers = 0.0, []

    def time(self) -> float:
        return self.now

    def call_at(self, when, call):
        self.timers.append((when, call))
        return call

    def run_to(self, when: float) -> None:
        self.now = when
        due = [each for each in self.timers if each[0] <= when]
        self.timers = [each for each in self.timers if each[0] > when]
        for _, call in due:
            call()


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


def test_who_waits_for_a_later_beat_wakes_with_the_sooner_one():
    clock, woken = Clock(), []
    pulse = Pulse(clock)
    pulse.wait(0.01, lambda: woken.append("soon"))
    pulse.wait(1.0, lambda: woken.append("late"))
    clock.run_to(0.01)
    assert woken == ["soon", "late"]


@given(st.floats(0, 1e6), st.floats(1e-3, 1))
def test_an_interval_ends_after_now_and_within_its_length(now, seconds):
    clock = Clock()
    clock.now = now
    end = Pulse(clock).end(seconds)
    assert now - 1e-6 <= end <= now + seconds + 1e-6
