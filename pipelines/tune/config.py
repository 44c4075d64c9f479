"""Recipe section ``tune``: what is varied, what is measured, and how much may be tried. Light."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from cluster.config import StrictModel
from pipelines.train.config import Count

DEFAULT_TRIALS = 20
WAYS = ("choice", "uniform", "loguniform", "integers", "grid")


class SpaceConfig(StrictModel):
    """The values that one key of the recipe may take: exactly one of these ways."""

    choice: list[JsonValue] | None = Field(None, min_length=1, description="one of these, each as likely")
    uniform: tuple[float, float] | None = Field(None, description="a number between two bounds")
    loguniform: tuple[float, float] | None = Field(
        None, description="a number between two bounds, its logarithm evenly spread: for rates and the like"
    )
    integers: tuple[Count, Count] | None = Field(None, description="a whole number between two bounds, both possible")
    grid: list[JsonValue] | None = Field(
        None, min_length=1, description="each of these in turn, with each of every other grid"
    )

    @model_validator(mode="after")
    def _check(self) -> SpaceConfig:
        given = [way for way in WAYS if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(WAYS)}" + (f", not {' and '.join(given)}" * bool(given)))
        if self.way in ("uniform", "loguniform", "integers"):
            low, high = self.bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{self.way} needs two numbers, the smaller one first")
            if self.way == "loguniform" and low <= 0:
                raise ValueError("loguniform has no logarithm of 0 or less: raise the lower bound, or use uniform")
        else:
            values = self.values
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"{self.way} has a value twice")
        return self

    @property
    def way(self) -> str:
        """Which of the ways was given."""
        return next(way for way in WAYS if getattr(self, way) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        low, high = getattr(self, self.way)
        return float(low), float(high)

    @property
    def values(self) -> list[Any]:
        """All values of a choice or grid; of a range its two ends."""
        return list(getattr(self, self.way))


class TuneConfig(StrictModel):
    """Which keys are varied, by which measured result trials are compared, and how many there are."""

    metric: str = Field(
        description="what is compared: STAGE.METRIC such as pretrain.validation.loss, or one of the last model's"
        " evaluation such as heldout.perplexity"
    )
    mode: Literal["min", "max"] | None = Field(
        None,
        description="whether the lowest or the highest is the best; by default the highest of accuracies, scores and "
        "rewards, the lowest of anything else",
    )
    space: dict[str, SpaceConfig] = Field(
        min_length=1, description="key of the recipe -> its values, for example pretrain.learning_rate"
    )
    trials: Count | None = Field(
        None, ge=1, description=f"trials in all; by default each cell of the grids once, without grids {DEFAULT_TRIALS}"
    )
    max_seconds: float | None = Field(None, gt=0, description="seconds in all, over every repetition of the command")
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "none",
        description="asha stops trials whose validation loss is behind that of others at the same point; pbt lets them "
        "go on from the others' weights with values near theirs",
    )
    grace_fraction: float = Field(
        0.1, gt=0, le=0.5, description="asha: share of its training that every trial gets; the first comparison"
    )
    reduction: float = Field(
        3.0,
        gt=1,
        description="asha: the best of so many trials goes on; each comparison is so many times later than the last",
    )
    interval_fraction: float = Field(
        0.2, gt=0, le=0.5, description="pbt: share of the training after which trials are compared, again and again"
    )
    quantile_fraction: float = Field(
        0.25, gt=0, le=0.5, description="pbt: share of the trials that give up, and of those that they continue from"
    )
    resample_probability: float = Field(
        0.25, ge=0, le=1, description="pbt: how often a new value is drawn anew, and not from near the old one"
    )
    seed: int = Field(1, ge=0, description="decides which values are tried, in which order")
    concurrent: int | None = Field(
        None, ge=1, description="trials at a time, where there is room; by default as many as have cores of their own"
    )
    keep_stopped: bool = Field(
        False, description="keep the checkpoints of trials that were stopped early, so that a run of one continues"
    )
