"""Successive halving (ASHA, arXiv:1810.05934) by Ray Tune, that goes on where an earlier driver was killed."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from pipelines.tune.record import TrialRecord

PROGRESS = "progress"
LOSS = "loss"
NUMBER = "number"
ALL = 100.0


class ResumedASHA(ASHAScheduler):
    """Compares validation losses at the same percent of training.

    Trials go by their numbers, which a repeated search gives again, and not by Ray Tune's random names: what earlier
    drivers saw of a trial counts as if this one had seen it.
    """

    def __init__(self, grace_fraction: float, reduction: float) -> None:
        super().__init__(
            time_attr=PROGRESS,
            metric=LOSS,
            mode="min",
            max_t=ALL,
            grace_period=ALL * grace_fraction,
            reduction_factor=reduction,
            stop_last_trials=False,
        )

    def replay(self, records: Iterable[TrialRecord]) -> set[int]:
        """Take the reports of earlier drivers, in the order they came in; trials that it had stopped by them."""
        reports = [(report, trial) for trial in records for report in trial.reports]
        stopped = set()
        for report, record in sorted(reports, key=lambda pair: pair[0].order):
            trial = SimpleNamespace(config={NUMBER: record.number})
            if str(record.number) not in self._trial_info:
                self.on_trial_add(None, trial)
            if self.on_trial_result(None, trial, {PROGRESS: report.progress, LOSS: report.loss}) == self.STOP:
                stopped.add(record.number)
        return stopped

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _by_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, _by_number(trial), result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _by_number(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _by_number(trial))


def _by_number(trial: Any) -> Any:
    return SimpleNamespace(trial_id=str(trial.config[NUMBER]))
