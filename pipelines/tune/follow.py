"""What Ray Tune says of the trials, written down at once: a driver that is killed has lost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback

from cluster.artifact import Artifact
from cluster.errors import RaymillError
from pipelines.tune.objective import Objective
from pipelines.tune.record import Mark, Records, Report, best_trial

SPENT_INTERVAL_S = 5.0


class Follower(Callback):
    """Keeps the records, and tells the user; Ray Tune calls it in the driver.

    Args:
        tidy: called whenever a trial is over.

    Attributes:
        error: what ended the search from here: Ray Tune passes it on as text, or not at all.
    """

    def __init__(
        self, records: Records, objective: Objective, tidy: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._records, self._objective, self._tidy, self._say = records, objective, tidy, say
        self._before = records.seconds
        self._began = self._spent_at = time.monotonic()
        self._started: dict[int, float] = {}
        self._order = records.next_order()
        self.error: RaymillError | OSError | None = None

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        return Callback, ()  # Ray Tune pickles its callbacks for a restore that never happens

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._spent_at >= SPENT_INTERVAL_S:
            self.spend()

    def spend(self) -> None:
        """Write down how long the search has run."""
        self._spent_at = time.monotonic()
        self._records.spend(round(self._before + self._spent_at - self._began, 1))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self._started[number] = time.monotonic() - self._records.trials[number].seconds
        self._say(f"trial {number} begins: {shown_values(self._records.trials[number].current)}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        with self._kept():
            self._take(trial.config["number"], result["kind"], result)

    def _take(self, number: int, kind: str, result: dict[str, Any]) -> None:
        if kind == "report":
            report = Report(order=self._order, step=result["step"], progress=result["progress"], loss=result["loss"])
            self._order += 1
            self._change(number, reports=[*self._records.trials[number].reports, report])
            self._say(f"trial {number} at {report.progress:.0f} %: validation loss {report.loss:.4g}")
        elif kind == "finished":
            artifact = Artifact.model_validate(result["artifact"])
            value = self._objective.read(artifact)
            self._change(
                number, state="finished", objective=value, metrics=artifact.metrics, artifacts=result["artifacts"]
            )
            best = best_trial(self._records.trials, self._objective.mode)
            rank = f"best is {best.objective:.6g} of trial {best.number}" if best and best.number != number else "best"
            self._say(f"trial {number} finished: {self._objective.name} {value:.6g}, {rank} so far")
        elif kind == "paused":
            record, mark = self._records.trials[number], Mark(step=result["step"], loss=result["loss"])
            self._change(number, state="paused", marks=[*record.marks[: record.generation], mark])
        elif kind == "failed":
            self._change(number, state="failed", reason=result["reason"], retry=result["retry"])
            self._say(f"trial {number} failed: {result['reason']}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        record = self._records.trials[number]
        with self._kept():
            if record.state == "running":  # nothing ended it but the scheduler
                last = record.reports[-1]
                reason = f"validation loss {last.loss:.4g} at {last.progress:.0f} % was behind"
                self._change(number, state="stopped", reason=reason)
                self._say(f"trial {number} stopped: {reason}")
            self._tidy()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        reason = str(trial.get_error() or "its process ended").strip().splitlines()[-1]
        with self._kept():
            self._change(number, state="failed", reason=reason, retry=True)
        self._say(f"trial {number} failed: {reason}")

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except (RaymillError, OSError) as error:
            self.error = error
            raise

    def _change(self, number: int, **changes: Any) -> None:
        seconds = round(time.monotonic() - self._started.get(number, time.monotonic()), 1)
        self._records.change(number, seconds=seconds, **changes)


def shown_values(values: Any) -> str:
    """A trial's values in a line."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
