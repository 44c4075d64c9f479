"""What a run remembers besides weights: data it skipped, recent losses, its best validation. Pure, and small JSON.

It is kept with every checkpoint, so that a run that continues decides as it would have decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import Any

from pipelines.train.config import TrainConfig

RECENT = 32
"""Losses that a spike is measured against."""

FEWEST = 8
"""Losses there must be before anything counts as a spike."""

RISE = 0.02
"""A validation loss this share above its lowest, while the training loss fell, is called overfitting."""


@dataclass
class Course:
    """See the module's text.

    Attributes:
        skips: (first batch, batches) left out of the data, in order.
        recent: the last training losses.
        since_validation: training losses since the last validation.
        best_step: the step with the lowest validation loss, or None.
        best_training: mean training loss before that validation.
        stalled: validations since then.
        warned: whether overfitting was called.
        rollbacks: times that the run went back to a checkpoint.
        went_back_to: the checkpoint's step, the last time.
        watched: what a task's own watch over its figures remembers.
    """

    skips: list[tuple[int, int]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    since_validation: list[float] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float = math.inf
    best_training: float = math.inf
    stalled: int = 0
    warned: bool = False
    rollbacks: int = 0
    went_back_to: int | None = None
    watched: dict[str, Any] = field(default_factory=dict)

    def batch_of(self, step: int) -> int:
        """Which batch of the data order a step uses: skipped ones are jumped over."""
        return batch_of(step, self.skips)

    def problem(self, loss: float, norm: float, config: TrainConfig) -> str | None:
        """What is wrong with a step, before it changes the weights; None where nothing is."""
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm became {norm}"
        if len(self.recent) >= FEWEST and loss > fmean(self.recent) + config.loss_spike:
            return f"the loss jumped to {loss:.4g} from a mean of {fmean(self.recent):.4g}"
        return None

    def trained(self, loss: float) -> None:
        """A step was taken."""
        self.recent = [*self.recent[-(RECENT - 1) :], loss]
        self.since_validation.append(loss)

    def validated(self, step: int, loss: float) -> Verdict:
        """A validation was made."""
        training = fmean(self.since_validation) if self.since_validation else math.inf
        self.since_validation = []
        if loss < self.best_loss:
            self.best_step, self.best_loss, self.best_training, self.stalled = step, loss, training, 0
            return Verdict(True, None)
        self.stalled += 1
        rose = loss > self.best_loss * (1 + RISE) and training < self.best_training
        if not rose or self.warned:
            return Verdict(False, None)
        self.warned = True
        return Verdict(
            False,
            f"overfitting: validation loss {loss:.4g} at step {step:,} is above its lowest, {self.best_loss:.4g} at "
            f"step {self.best_step:,}, while training loss fell from {self.best_training:.4g} to {training:.4g}; stop "
            "earlier (early_stopping), train on more data, or use dropout and weight decay",
        )

    def went_back(self, checkpoint_step: int, failed_step: int, before: Course) -> None:
        """This is the course as a checkpoint had it: leave out the data from there to the step that failed.

        Args:
            before: the course that failed.
        """
        self.rollbacks, self.went_back_to = before.rollbacks + 1, checkpoint_step
        first, last = batch_of(checkpoint_step, before.skips), batch_of(failed_step, before.skips)
        # Windows after that checkpoint lie within the new one.
        self.skips = [*(each for each in before.skips if each[0] < first), (first, last - first + 1)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for name in ("best_loss", "best_training"):
            values[name] = values[name] if math.isfinite(values[name]) else None
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Course:
        """The inverse of :meth:`to_json`."""
        known: dict[str, Any] = {
            name: math.inf if value is None and name.startswith("best_") else value for name, value in values.items()
        }
        known["best_step"] = values["best_step"]
        # A checkpoint remembers more than this, and one of an earlier version less.
        known = {field.name: known[field.name] for field in fields(cls) if field.name in known}
        known["skips"] = [(int(first), int(count)) for first, count in values["skips"]]
        return cls(**known)


@dataclass(frozen=True)
class Verdict:
    """Whether a validation was the best so far, and what to tell the user."""

    improved: bool
    warning: str | None


def batch_of(step: int, skips: Iterable[tuple[int, int]]) -> int:
    """The number of the batch that a step uses where ``skips`` (first batch, batches; in order) are left out."""
    number = step
    for first, count in skips:
        if number >= first:
            number += count
    return number
