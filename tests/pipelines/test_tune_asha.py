"""ASHA that was interrupted decides as it would have decided, whatever names Ray Tune gives the trials."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.tune.asha import ResumedASHA
from pipelines.tune.record import Report, TrialRecord

LOOKS = (10.0, 30.0, 90.0)


def feed(scheduler: ResumedASHA, number: int, progress: float, loss: float, name: str = "x") -> str:
    trial = SimpleNamespace(config={"number": number}, trial_id=f"{name}-{number}")
    if str(number) not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"progress": progress, "loss": loss})


def oracle(seen: list[float], loss: float, reduction: float) -> bool:
    """Whether a loss is among the best 1/reduction of those seen at a look before it, itself not counted."""
    if not seen:
        return True
    ordered = sorted(seen)
    place = (len(ordered) - 1) / reduction  # linear interpolation, as percentiles do
    low, share = int(place), place - int(place)
    cutoff = ordered[low] + share * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
    return loss <= cutoff + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_decisions_are_those_of_the_paper_s_rule(seed: int) -> None:
    draw = random.Random(seed)
    scheduler = ResumedASHA(grace_fraction=0.1, reduction=3.0)
    seen: dict[float, list[float]] = {look: [] for look in LOOKS}
    for number in range(30):
        for look in LOOKS:
            loss = draw.uniform(1, 5)
            goes_on = feed(scheduler, number, look, loss) == scheduler.CONTINUE
            assert goes_on == oracle(seen[look], loss, 3.0)
            seen[look].append(loss)
            if not goes_on:
                break


def test_between_looks_and_a_second_time_nothing_is_decided() -> None:
    scheduler = ResumedASHA(grace_fraction=0.1, reduction=3.0)
    feed(scheduler, 0, 10, 1.0)
    assert feed(scheduler, 1, 5, 99.0) == scheduler.CONTINUE
    assert feed(scheduler, 1, 10, 0.5) == scheduler.CONTINUE
    assert feed(scheduler, 1, 20, 99.0) == scheduler.CONTINUE
    assert feed(scheduler, 1, 10, 99.0) == scheduler.CONTINUE
    assert feed(scheduler, 2, 10, 1.5) == scheduler.STOP


def history(draw: random.Random, count: int) -> list[tuple[int, float, float]]:
    """(trial, progress, loss) of trials that run beside each other."""
    found = [(number, look, draw.uniform(1, 5)) for number in range(count) for look in LOOKS]
    return sorted(found, key=lambda each: (each[1] + 7 * each[0], each[0]))


@pytest.mark.parametrize("cut", [1, 7, 20, 41])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(cut: int) -> None:
    events = history(random.Random(3), 14)
    whole = ResumedASHA(0.1, 3.0)
    stopped: set[int] = set()
    reports: dict[int, list[Report]] = {}
    decisions: list[tuple[int, str]] = []
    for order, (number, progress, loss) in enumerate(events):
        if number in stopped:
            continue
        decision = feed(whole, number, progress, loss, "first")
        if decision == whole.STOP:
            stopped.add(number)
        if order < cut:
            reports.setdefault(number, []).append(Report(order=order, step=1, progress=progress, loss=loss))
        else:
            decisions.append((number, decision))
    resumed = ResumedASHA(0.1, 3.0)
    before = resumed.replay(TrialRecord(number=number, values={}, reports=each) for number, each in reports.items())
    assert before == {number for number in stopped if number not in {each for each, _ in decisions}} & before
    again: list[tuple[int, Any]] = []
    gone = set(before)
    for number, progress, loss in events[cut:]:
        if number not in gone:
            decision = feed(resumed, number, progress, loss, "second")
            again.append((number, decision))
            if decision == resumed.STOP:
                gone.add(number)
    assert again == decisions
    assert gone == stopped
