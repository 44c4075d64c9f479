"""What a run remembers: skipped data, spikes, overfitting; and the whole way back after a loss went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from cluster.store import Store
from pipelines.train.checkpoint import find
from pipelines.train.config import TrainConfig
from pipelines.train.course import Course, batch_of
from pipelines.train.group import Group
from pipelines.train.journal import Follower, Journal
from pipelines.train.keeper import Keeper
from pipelines.train.loop import Finished, train
from pipelines.train.order import Indices
from pipelines.train.task import Batch

CONFIG = TrainConfig(
    batch_sequences=4, learning_rate=1e-3, workers=1, checkpoint_every_steps=5, validation_every_steps=100
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=5), st.integers(1, 80))
def test_batches_are_every_number_once_that_is_not_left_out(skips: list[tuple[int, int]], steps: int) -> None:
    """Against taking the windows out of a list: each window is counted in the data that is there."""
    everything = list(range(steps + sum(count for _, count in skips) + 200))
    merged: list[tuple[int, int]] = []
    for first, count in sorted(skips):  # windows as they come to be: later ones begin where earlier ones ended
        start = max(first, merged[-1][0] + merged[-1][1]) if merged else first
        merged.append((start, count))
    left_out = {number for first, count in merged for number in range(first, first + count)}
    expected = [number for number in everything if number not in left_out][:steps]
    assert [batch_of(step, merged) for step in range(steps)] == expected


def test_a_second_skip_begins_after_the_first() -> None:
    course = Course()
    course.went_back(10, 14, Course())
    assert course.skips == [(10, 5)]
    assert [course.batch_of(step) for step in (9, 10, 11)] == [9, 15, 16]
    course.went_back(10, 12, replace(course))
    assert course.skips == [(10, 5), (15, 3)]
    assert course.batch_of(10) == 18
    course.went_back(5, 11, replace(course))  # further back: the new window holds the earlier ones
    assert course.skips == [(5, 15)]
    assert course.batch_of(5) == 20
    assert (course.rollbacks, course.went_back_to) == (3, 5)


def test_what_it_remembers_survives_json() -> None:
    course = Course()
    for step in range(50):
        course.trained(3.0 + 0.01 * step)
    course.validated(50, 2.5)
    course.went_back(3, 4, Course())
    assert Course.from_json(json.loads(json.dumps(course.to_json()))) == course
    assert Course.from_json(json.loads(json.dumps(Course().to_json()))) == Course()
    fewer = {name: value for name, value in Course().to_json().items() if name not in ("rollbacks", "went_back_to")}
    assert Course.from_json(fewer) == Course()  # of a checkpoint that was made before these were remembered


def test_spikes() -> None:
    course = Course()
    assert course.problem(50.0, 1.0, CONFIG) is None  # nothing to compare with yet
    for _ in range(10):
        course.trained(3.0)
    assert course.problem(4.9, 1.0, CONFIG) is None
    assert course.problem(5.1, 1.0, CONFIG) == "the loss jumped to 5.1 from a mean of 3"
    assert "nan" in str(course.problem(math.nan, 1.0, CONFIG))
    assert "norm became inf" in str(course.problem(3.0, math.inf, CONFIG))


def test_overfitting_is_called_once_where_training_falls_and_validation_rises() -> None:
    course = Course()
    for loss in (3.0, 2.9):
        course.trained(loss)
    assert course.validated(2, 3.0).improved
    course.trained(2.0)
    assert course.validated(3, 3.03).warning is None  # noise
    course.trained(1.5)
    warning = course.validated(4, 3.2).warning
    assert warning is not None and "overfitting: validation loss 3.2 at step 4" in warning
    course.trained(1.0)
    assert course.validated(5, 3.5).warning is None
    rising = Course()
    rising.trained(1.0)
    rising.validated(1, 1.0)
    rising.trained(2.0)
    assert rising.validated(2, 2.0).warning is None  # both rise: that is not overfitting


class Model(torch.nn.Module):
    """Two parameters: a table of logits, and a factor that poisoned samples reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(8, 8)
        self.seen: list[int] = []

    def forward(self, input_ids: torch.Tensor, use_cache: bool, poison: torch.Tensor) -> object:
        class Output:
            logits = self.table(input_ids) * poison[:, None, None]

        return Output


class Samples:
    """Sequences of which some make the loss NaN, or very large; it remembers which ones were asked for."""

    def __init__(self, poison: dict[int, float]) -> None:
        self.poison = poison
        self.asked: list[int] = []
        self.tokens = torch.arange(400 * 6).reshape(400, 6) * 7 % 8

    def __len__(self) -> int:
        return 400

    def batch(self, indices: Indices) -> Batch:
        self.asked += indices.tolist()
        poison = torch.tensor([self.poison.get(int(index), 1.0) for index in indices])
        return Batch(self.tokens[indices, :-1], self.tokens[indices, 1:], {"poison": poison})

    def targets(self, indices: Indices) -> int:
        return 5 * len(indices)


def run(
    store: Store,
    samples: Samples,
    steps: int = 20,
    tries: Sequence[str] = ("checkpoints",),
    show: Callable[[Mapping[str, Any]], None] = lambda record: None,
    **changes: object,
) -> tuple[Finished, list[dict]]:
    config = CONFIG.model_copy(update=changes)
    journal = Journal(store, "journal")
    keeper = Keeper(store, tries[0], tries[1:], Group(), journal, 2, show)
    try:
        finished, _ = train(Model(), samples, Samples({}), steps, config, Group(), keeper, "here")
    finally:
        keeper.wait()
    journal.close()
    return finished, Follower(store, "journal").poll()


def nth_sample(position: int) -> int:
    from pipelines.train.order import sample_indices

    return int(sample_indices(position, 1, 400, CONFIG.seed)[0])


@pytest.mark.parametrize("value", [math.nan, 1e4])
def test_a_bad_batch_is_left_out_and_the_run_goes_on(store: Store, value: float) -> None:
    """Step 13 (counted from 1) sees a poisoned sample: back to the checkpoint at 10, batches 11 to 13 are left out."""
    samples = Samples({nth_sample(4 * 12 + 1): value})
    finished, records = run(store, samples)
    assert finished.steps == 20
    losses = {each["step"]: each["loss"] for each in records if each["kind"] == "train"}
    assert sorted(losses) == list(range(1, 21)) and all(math.isfinite(loss) for loss in losses.values())
    (event,) = [each["text"] for each in records if each["kind"] == "event"]
    assert "at step 13: back to the checkpoint at step 10; batches 11 to 13 of the data are left out" in event
    # The data after the way back is that of batches 14 to 23, which is as good as never having had the others.
    from pipelines.train.order import sample_indices

    assert samples.asked[-40:] == sample_indices(13 * 4, 40, 400, CONFIG.seed).tolist()


def test_a_run_that_continues_after_a_way_back_is_the_same_run(store: Store, tmp_path: Path) -> None:
    """The skipped data is part of what a checkpoint remembers: a run stopped at 15 goes on with the same batches."""
    from cluster.store import open_store

    poison = {nth_sample(4 * 12 + 1): math.nan}
    _, whole = run(store, Samples(poison), schedule="constant")
    other = open_store(tmp_path / "other")
    run(other, Samples(poison), steps=15, schedule="constant", warmup_fraction=0.0)
    # `constant` and no warm-up: 15 steps of 20 are then the first 15.
    _, whole = run(open_store(tmp_path / "whole"), Samples(poison), schedule="constant", warmup_fraction=0.0)
    _, records = run(other, Samples(poison), schedule="constant", warmup_fraction=0.0)
    losses = [{each["step"]: each["loss"] for each in found if each["kind"] == "train"} for found in (whole, records)]
    assert losses[0] == losses[1]


class Killed(Exception):
    """Stands for the process's end."""


def kill_at(step: int, rollbacks: int) -> Callable[[Mapping[str, Any]], None]:
    """Ends a run where it takes a step, or comes back to it, after it went back so many times."""
    seen: list[int] = []

    def show(record: Mapping[str, Any]) -> None:
        seen.extend([1] * (record["kind"] == "rollback"))
        if record["kind"] in ("train", "rollback") and record["step"] == step and len(seen) == rollbacks:
            raise Killed

    return show


def test_a_rejected_checkpoint_is_never_continued_from(store: Store, tmp_path: Path) -> None:
    """Step 13 fails, and again after the way back to 10, so the run goes to 5; it is killed in each of these places.

    Batches 6 to 16 are left out then. The checkpoint at 10 saw some of them, and lies in the first try's folder.
    """
    from cluster.store import open_store

    poison = {nth_sample(4 * number + 1): math.nan for number in (12, 15)}
    _, whole = run(open_store(tmp_path / "whole"), Samples(poison))
    kills = [kill_at(12, 0), kill_at(8, 2), kill_at(9, 0)]
    tries = ["third", "second", "first"]
    for number, show in enumerate(kills, 1):
        with pytest.raises(Killed):
            run(store, Samples(poison), tries=tries[-number:], show=show)
    finished, records = run(store, Samples(poison), tries=["fourth", *tries])
    assert finished.resumed_at == 5
    assert [each.step for each in find(store, ["first"])] == [10, 5]  # another try's folder is left as it is
    losses = [{each["step"]: each["loss"] for each in found if each["kind"] == "train"} for found in (whole, records)]
    assert losses[0] == losses[1]
    events = [[each["text"] for each in found if each["kind"] == "event"] for found in (whole, records)]
    assert events[0] == events[1] and "(2 of 3 times)" in events[0][-1]


def test_a_run_in_one_folder_goes_on_below_what_it_rejected(store: Store) -> None:
    poison = {nth_sample(4 * number + 1): math.nan for number in (12, 15)}
    with pytest.raises(Killed):
        run(store, Samples(poison), show=kill_at(8, 2))
    assert [each.step for each in find(store, ["checkpoints"])] == [5]
    finished, _ = run(store, Samples(poison))
    assert finished.resumed_at == 5


def test_times_of_going_back_are_counted_over_restarts(store: Store) -> None:
    poison = {nth_sample(4 * 12 + n): math.nan for n in range(300)}
    with pytest.raises(Killed):
        run(store, Samples(poison), show=kill_at(5, 2), max_rollbacks=2)
    again: list[Any] = []
    with pytest.raises(UserError, match=r"at step \d+ of 20, after going back 2 times"):
        run(store, Samples(poison), show=lambda record: again.append(record["kind"]), max_rollbacks=2)
    assert "rollback" not in again


def test_a_way_back_that_cannot_be_noted_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.train.checkpoint.reject", full)
    finished, records = run(store, Samples({nth_sample(4 * 12 + 1): math.nan}))
    assert finished.steps == 20
    texts = [each["text"] for each in records if each["kind"] == "event"]
    assert any("back to step 10 could not be noted: [Errno 28] No space left" in text for text in texts)


def test_a_run_that_diverges_again_and_again_gives_up(store: Store) -> None:
    poison = {nth_sample(4 * 12 + n): math.nan for n in range(300)}
    with pytest.raises(UserError, match=r"the loss became nan at step \d+ of 20, after going back 2 times") as raised:
        run(store, Samples(poison), max_rollbacks=2)
    assert "learning_rate" in raised.value.next_step


def test_without_a_checkpoint_there_is_nowhere_to_go_back_to(store: Store) -> None:
    with pytest.raises(UserError, match="the loss became nan at step 2 of 20"):
        run(store, Samples({nth_sample(5): math.nan}))


def test_indices_are_what_the_order_says() -> None:
    assert np.unique([nth_sample(position) for position in range(400)]).size == 400
