"""The recipe's ``serving.rollout`` section: how users move to another variant, and what must hold."""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel

Metric = str
BUILT_IN = ("error_rate", "first_token_seconds", "token_seconds", "latency_p95_seconds")
"""Measured by the gateways; any other name is a feedback or business metric that callers report."""


class GuardrailConfig(StrictModel):
    """One metric that the candidate must hold."""

    metric: Metric = Field(
        min_length=1,
        description="error_rate, first_token_seconds, token_seconds, latency_p95_seconds, or a reported metric's name",
    )
    test: Literal["non_inferiority", "superiority"] = Field(
        default="non_inferiority", description="not worse than the margin, or better than the baseline"
    )
    margin: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="how much worse is acceptable: for seconds a fraction (0.1 is 10 %), otherwise the difference",
    )
    higher_is_better: bool | None = Field(
        default=None, description="for reported metrics; rates of errors and seconds are better when lower"
    )
    bounded: bool = Field(
        default=True, description="a reported metric's values are all within 0 and 1; otherwise only their mean is used"
    )


class RolloutConfig(StrictModel):
    """Recipe section ``serving.rollout``."""

    candidate: str = Field(description="the variant that users move to")
    baseline: str = Field(description="the variant that they come from, kept warm until the end")
    mode: Literal["ab", "aa"] = Field(
        default="ab", description="aa: both are the same model; checks the measuring itself and never promotes"
    )
    steps: tuple[float, ...] = Field(
        (1, 5, 25, 50, 100), min_length=1, description="per cent of the pair's users on the candidate, step by step"
    )
    minimum_seconds: float = Field(600.0, ge=0, description="a step lasts at least so long")
    minimum_units: int = Field(100, ge=1, description="users (units) that each side needs in a step before it can pass")
    maximum_seconds: float = Field(86_400.0, gt=0, description="a step that has not passed by then times out")
    on_timeout: Literal["hold", "rollback"] = Field(default="hold", description="what a step that times out does")
    bake_seconds: float = Field(600.0, ge=0, description="how long the baseline is kept warm at 100 per cent")
    require: Literal["last_step", "every_step"] = Field(
        default="last_step",
        description="when guardrails must be shown to hold; a step before it only needs that no harm is shown",
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of a false alarm in the whole rollout, at most")
    power: float = Field(0.8, gt=0, lt=1, description="for the sizes and durations that are said at the start")
    unit: Literal["user", "request"] = Field(
        default="user",
        description="what is counted: each user once a step, or requests as if they were independent",
    )
    window_seconds: float = Field(
        60.0, gt=0, description="a user's requests in this time after the first of a step make one observation"
    )
    guardrails: tuple[GuardrailConfig, ...] = Field(
        (
            GuardrailConfig(metric="error_rate", margin=0.01),
            GuardrailConfig(metric="first_token_seconds", margin=0.2),
            GuardrailConfig(metric="token_seconds", margin=0.2),
            GuardrailConfig(metric="latency_p95_seconds", margin=0.3),
        ),
        min_length=1,
        description="what must hold before users move on",
    )
    gate: str = Field(
        default="newest",
        min_length=1,
        description="the evaluation decision that must say pass: newest (of this pair), an artifact id, or none",
    )

    @field_validator("steps")
    @classmethod
    def _rise(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < step <= 100 for step in steps) or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError("steps must rise, each above 0 and at most 100")
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
