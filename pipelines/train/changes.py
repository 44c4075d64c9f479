"""Values that change in mid-training: what a recipe says of them, and which hold at a step. Light."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from cluster.config import StrictModel
from cluster.errors import UserError

if TYPE_CHECKING:
    from pipelines.train.config import TrainConfig


class ChangeConfig(StrictModel):
    """Values that hold from a point of the training on. None of them changes a shape or the order of the data."""

    at_fraction: float = Field(gt=0, lt=1, description="share of the steps that is done with the values before")
    learning_rate: float | None = Field(
        None, gt=0, description="height of the schedule from then on; it goes on from where it is in time"
    )
    weight_decay: float | None = Field(None, ge=0, description="decoupled weight decay from then on")
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the whole gradient from then on")
    z_loss: float | None = Field(None, ge=0, description="weight of the squared log-normaliser from then on")

    @model_validator(mode="after")
    def _check_values(self) -> ChangeConfig:
        if not self.values:
            raise ValueError(f"changes nothing: give at least one of {', '.join(CHANGEABLE)}")
        return self

    @property
    def values(self) -> dict[str, float]:
        """Key -> new value, of those that change."""
        return self.model_dump(exclude={"at_fraction"}, exclude_none=True)


CHANGEABLE = tuple(name for name in ChangeConfig.model_fields if name != "at_fraction")
"""Keys of training that may change on the way."""


def plain_changes(changes: Sequence[ChangeConfig]) -> list[dict[str, float]]:
    """The changes as a recipe, and an artifact's identity, has them."""
    return [{"at_fraction": each.at_fraction, **each.values} for each in changes]


def step_of(fraction: float, steps: int) -> int:
    """The step (from 0) at that share of a training of so many."""
    return round(fraction * steps)


def pause_at(fraction: float | None, steps: int, where: str) -> int:
    """The step before which a run pauses; its last where it is not to.

    Raises:
        UserError: that is before the first.
    """
    step = steps if fraction is None else step_of(fraction, steps)
    if step < 1 <= steps:
        raise UserError(
            f"{steps:,} steps are too few to pause after {fraction:.0%} of them",
            where=where,
            next_step="train for longer, or raise tune.interval_fraction",
        )
    return step


def check_changes(changes: Sequence[ChangeConfig], steps: int | None = None) -> None:
    """Hold changes against each other, and against the length of the training where that is known.

    Raises:
        ValueError: they are not in order, or there is no step between two of them or an end of the training.
    """
    shares = [0.0, *(each.at_fraction for each in changes), 1.0]
    for before, after in pairwise(shares):
        if before >= after:
            raise ValueError(f"changes at {before:g} and {after:g} are not in order: each comes later than the last")
        if steps is not None and changes and step_of(before, steps) >= step_of(after, steps):
            raise ValueError(
                f"changes at {before:g} and {after:g} of {steps:,} steps leave no step between them: take one away, or "
                "train for longer"
            )


class Timetable:
    """Which values hold at which step of a training.

    Args:
        where: the section's name.

    Raises:
        UserError: the training is too short for its changes.
    """

    def __init__(self, config: TrainConfig, steps: int, where: str) -> None:
        try:
            check_changes(config.changes, steps)
        except ValueError as error:
            what, _, advice = str(error).partition(": ")
            raise UserError(what, where=f"{where}.changes", next_step=advice) from None
        self._from: dict[int, TrainConfig] = {0: config}
        self._news: dict[int, str] = {}
        for change in config.changes:
            step = step_of(change.at_fraction, steps)
            before = self.at(step)
            self._from[step] = before.model_copy(update=change.values)
            self._news[step] = ", ".join(
                f"{name} {getattr(before, name):g} becomes {value:g}" for name, value in change.values.items()
            )

    def at(self, step: int) -> TrainConfig:
        """The section with the values of a step, counted from 0."""
        return self._from[max(first for first in self._from if first <= step)]

    def news(self, step: int) -> str | None:
        """What changes with a step, in words; None where nothing does."""
        return self._news.get(step)
