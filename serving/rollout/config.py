"""The recipe's ``serving.rollout`` section: how users move to another variant, and what must hold."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel

Metric = str
BUILT_IN = ("error_rate", "first_token_seconds", "token_seconds", "latency_p95_seconds")
"""Measured by the gateways; any other name is a feedback or business metric that callers report."""
SECONDS = BUILT_IN[1:]
FULL = 100.0
"""Per cent: every user of the pair is on the candidate."""


class GuardrailConfig(StrictModel):
    """One metric that the candidate must hold."""

    metric: Metric = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$",
        description="error_rate, first_token_seconds, token_seconds, latency_p95_seconds, or a reported metric's name",
    )
    test: Literal["non_inferiority", "superiority"] = Field(
        default="non_inferiority", description="not worse than the margin, or better than the baseline"
    )
    margin: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="how much worse is acceptable: for seconds a fraction (0.1 is 10 %), otherwise the difference; "
        "superiority has none",
    )
    higher_is_better: bool | None = Field(
        default=None, description="for reported metrics; rates of errors and seconds are better when lower"
    )
    bounded: bool = Field(
        default=True, description="a reported metric's values are all within 0 and 1; otherwise only their mean is used"
    )
    optional: bool = Field(
        default=False,
        description="no obstacle while neither side has measured it: callers that never stream have no first token",
    )

    @property
    def reported(self) -> bool:
        """Whether callers report it, rather than the gateways measuring it."""
        return self.metric not in BUILT_IN

    @property
    def relative(self) -> bool:
        """Whether margin and estimate are fractions of the baseline's value."""
        return self.metric in SECONDS

    @property
    def lower_is_better(self) -> bool:
        """Which way is good."""
        return not self.higher_is_better

    @model_validator(mode="after")
    def _fits(self) -> GuardrailConfig:
        if self.reported and self.higher_is_better is None:
            raise ValueError(
                f"{self.metric} is no measured metric ({', '.join(BUILT_IN)}); "
                "for one that callers report, say whether higher_is_better"
            )
        if not self.reported and self.higher_is_better is not None:
            raise ValueError(f"{self.metric} is better when lower: leave higher_is_better out")
        if self.test == "superiority" and self.margin:
            raise ValueError("superiority is better than the baseline by anything: leave the margin out")
        if self.test == "non_inferiority" and not self.margin:
            raise ValueError(
                f"{self.metric} needs a margin above 0: no number of users shows that two equal models do not differ"
            )
        if self.margin >= 1 and (self.metric == "error_rate" or (self.reported and self.bounded)):
            raise ValueError(f"{self.metric} lies within 0 and 1: a margin of {self.margin:g} accepts everything")
        return self


class RolloutConfig(StrictModel):
    """Recipe section ``serving.rollout``."""

    candidate: str = Field(description="the variant that users move to; its own weight is 0")
    baseline: str = Field(description="the variant that they come from, kept warm until the end")
    mode: Literal["ab", "aa"] = Field(
        default="ab", description="aa: both are the same model; checks the measuring itself and never promotes"
    )
    steps: tuple[float, ...] = Field(
        (1, 5, 25, 50, 100),
        min_length=1,
        description="per cent of the pair's users on the candidate, step by step; 100 is added at the end where it "
        "is missing. For mode aa: by default one step of 50, and none of 100",
    )
    minimum_seconds: float = Field(600.0, ge=0, allow_inf_nan=False, description="a step lasts at least so long")
    minimum_units: int = Field(
        100,
        ge=1,
        description="users (units) that each side needs in a step before it can pass; the candidate also at 100 %",
    )
    maximum_seconds: float = Field(86_400.0, gt=0, description="a step that has not passed by then times out")
    on_timeout: Literal["hold", "rollback"] = Field(
        default="hold", description="what a step that times out does; one that holds can still pass later"
    )
    bake_seconds: float = Field(
        600.0, ge=0, allow_inf_nan=False, description="how long, at least, the baseline is kept warm at 100 per cent"
    )
    require: Literal["last_step", "every_step"] = Field(
        default="last_step",
        description="when guardrails must be shown to hold; a step before it only needs that no harm is shown. "
        "The last step is the last one that still has users on both sides",
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of a false alarm in the whole rollout, at most")
    power: float = Field(0.8, gt=0, lt=1, description="for the sizes and durations that are said at the start")
    users_per_minute: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="new users (units) expected on both variants together, for the durations said at the start",
    )
    unit: Literal["user", "request"] = Field(
        default="user",
        description="what is counted: each user once a step, or requests as if they were independent",
    )
    window_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="a user's requests in this time after the first of a step make one observation; "
        "reported metrics count if they come within it",
    )
    guardrails: tuple[GuardrailConfig, ...] = Field(
        (
            GuardrailConfig(metric="error_rate", margin=0.01),
            GuardrailConfig(metric="first_token_seconds", margin=0.2, optional=True),
            GuardrailConfig(metric="token_seconds", margin=0.2, optional=True),
            GuardrailConfig(metric="latency_p95_seconds", margin=0.3),
        ),
        min_length=1,
        max_length=16,
        description="what must hold before users move on",
    )
    gate: str = Field(
        default="newest",
        min_length=1,
        description="the evaluation decision that must say pass: newest (of this pair), an artifact id, or none",
    )

    @model_validator(mode="before")
    @classmethod
    def _steps_of_mode(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("mode") == "aa" and data.get("steps") is None:
            return {**data, "steps": (50.0,)}
        return data

    @field_validator("steps")
    @classmethod
    def _rise(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < step <= FULL for step in steps) or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError("steps must rise, each above 0 and at most 100")
        if any(round(step, 2) != step for step in steps):
            raise ValueError("a step can be told apart to 0.01 per cent")
        if steps[0] == FULL:
            raise ValueError("the first step must leave users on the baseline to compare with: give one below 100")
        return steps

    @field_validator("guardrails")
    @classmethod
    def _differ(cls, guardrails: tuple[GuardrailConfig, ...]) -> tuple[GuardrailConfig, ...]:
        names = [guardrail.metric for guardrail in guardrails]
        if len(set(names)) < len(names):
            raise ValueError("each metric may have one guardrail")
        return guardrails

    @model_validator(mode="after")
    def _two_variants(self) -> RolloutConfig:
        if self.candidate == self.baseline:
            raise ValueError("candidate and baseline must be two variants (for an A/A test, two with the same model)")
        return self

    @model_validator(mode="after")
    def _times_fit(self) -> RolloutConfig:
        shortest = max(self.minimum_seconds, self.window_seconds)
        if self.maximum_seconds <= shortest:
            raise ValueError(
                f"maximum_seconds ({self.maximum_seconds:g}) must exceed minimum_seconds and window_seconds "
                f"({shortest:g}): otherwise no step can pass before it times out"
            )
        return self

    @property
    def compared_steps(self) -> tuple[float, ...]:
        """The steps, in per cent, that have users on both sides."""
        return tuple(step for step in self.steps if step < FULL)

    @property
    def alarm_alpha(self) -> float:
        """The level of each single alarm, so that all of them together stay below alpha (Bonferroni).

        Each compared step can alarm on every guardrail, on its sample ratio and on callers who leave; the bake on
        these and, where they have a guardrail, on errors once more.
        """
        rails = {guardrail.metric for guardrail in self.guardrails}
        bake = 1 + ("error_rate" in rails) if self.mode == "ab" else 0
        return self.alpha / (len(self.compared_steps) * (len(rails) + 2) + bake)
