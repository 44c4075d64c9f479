"""What is known of each trial, kept in the store: one JSON file a trial, written anew whenever something is learned.

The driver alone writes. A search that is repeated reads its records first: what is over is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import UserError
from cluster.store import Store

SEARCHES = "tune"
STATE = "state.json"


class Mark(StrictModel):
    """Where a member of a population stood at the end of a generation.

    Attributes:
        step: optimiser steps that were done.
        loss: validation loss, nats per token; not always a finite number.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    step: int
    loss: float


class Report(Mark):
    """A validation while a trial trained.

    Attributes:
        order: its place among all reports of the search, in the order that the scheduler saw them.
        progress: percent of the training that was done.
    """

    order: int
    progress: float


class Takeover(StrictModel):
    """A member went on from another's checkpoint.

    Attributes:
        at_fraction: share of the training that was done.
        number: the other.
    """

    at_fraction: float
    number: int


class TrialRecord(StrictModel):
    """One trial.

    Attributes:
        values: key of the recipe -> its value; with pbt that at the beginning of what the trial continues.
        state: ``running`` also for one that was cut off, which the next driver continues; ``paused`` at the end of a
            generation.
        objective: of a finished trial.
        reason: why it was stopped or failed.
        retry: whether a failed one is tried again when the search is repeated: the cluster failed, not the recipe.
        artifacts: node -> id of what the trial made or reused.
        tidied: whether a stopped trial's checkpoints are gone, where they are not kept.
        generation: pbt: comparisons that are behind it.
        marks: pbt: how it stood at each comparison.
        changes: pbt: what its recipe has as ``changes``.
        takeovers: pbt: whose weights it took on the way.
    """

    number: int
    values: dict[str, Any]
    state: Literal["running", "paused", "finished", "stopped", "failed"] = "running"
    objective: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    reports: list[Report] = Field(default_factory=list)
    reason: str = ""
    retry: bool = False
    artifacts: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    tidied: bool = False
    generation: int = 0
    marks: list[Mark] = Field(default_factory=list)
    changes: list[dict[str, float]] = Field(default_factory=list)
    takeovers: list[Takeover] = Field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether a repeated search leaves it alone."""
        return self.state not in ("running", "paused") and not self.retry

    @property
    def current(self) -> dict[str, Any]:
        """The values that it trains with now, or did at last."""
        found = dict(self.values)
        for change in self.changes:
            found |= {key: change[name] for key in found if (name := key.rpartition(".")[2]) in change}
        return found

    @property
    def progress(self) -> float:
        """Percent of its training that is known to be done."""
        return 100.0 if self.state == "finished" else max((each.progress for each in self.reports), default=0.0)


class Records:
    """The records of one search, by number."""

    def __init__(self, store: Store, search_id: str) -> None:
        self.store = store
        self.folder = f"{SEARCHES}/{search_id}"
        self.trials: dict[int, TrialRecord] = {}
        for item in store.files(f"{self.folder}/trials/"):
            record = _parse(TrialRecord, store, item.key)
            self.trials[record.number] = record
        try:
            self.seconds = _parse(Spent, store, f"{self.folder}/{STATE}").seconds
        except FileNotFoundError:
            self.seconds = 0.0

    def put(self, record: TrialRecord) -> TrialRecord:
        """Keep a record in place of the trial's last one."""
        self.store.write(f"{self.folder}/trials/{record.number:04d}.json", record.model_dump_json(indent=1).encode())
        self.trials[record.number] = record
        return record

    def change(self, number: int, **changes: Any) -> TrialRecord:
        """Keep a trial's record with some fields changed."""
        return self.put(self.trials[number].model_copy(update=changes))

    def spend(self, seconds: float) -> None:
        """Keep how long the search has run in all."""
        self.seconds = seconds
        self.store.write(f"{self.folder}/{STATE}", Spent(seconds=seconds).model_dump_json().encode())

    def next_order(self) -> int:
        """The place of the next report."""
        return 1 + max((each.order for trial in self.trials.values() for each in trial.reports), default=-1)

    def __iter__(self) -> Any:
        return iter([self.trials[number] for number in sorted(self.trials)])


class Spent(StrictModel):
    """Seconds that a search has run, over all its drivers."""

    seconds: float


def _parse(model: Any, store: Store, key: str) -> Any:
    data = store.read(key)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise UserError(
            f"the record is damaged, or of another version: {error.errors()[0]['msg']}",
            where=store.uri(key),
            next_step="delete that file: its trial is tried again, from what is in the store",
        ) from None


def best_trial(records: Mapping[int, TrialRecord], mode: str) -> TrialRecord | None:
    """The finished trial with the best objective; of equal ones the first."""
    finished = [each for _, each in sorted(records.items()) if each.state == "finished" and each.objective is not None]
    sign = 1.0 if mode == "min" else -1.0
    return min(finished, key=lambda each: sign * float(each.objective or 0.0), default=None)
