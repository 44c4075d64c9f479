"""The recipe's ``serving`` section: which models answer, with which share of the users, on which address."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel, execution
from serving.rollout.config import RolloutConfig

VARIANT_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts on which only this machine can call."""

REPLICAS = r"^\d{1,4}(:\d{1,4})?$"


def replica_bounds(replicas: int | str) -> tuple[int, int]:
    """(least, most) replicas from ``2`` or ``"1:4"``.

    Raises:
        ValueError: the text is neither, or the bounds are the wrong way round.
    """
    low, _, high = str(replicas).partition(":")
    if not re.match(REPLICAS, str(replicas)) or not int(low) <= int(high or low) >= 1:
        raise ValueError(f"replicas {replicas!r}: give a number of at least 1, or MIN:MAX with MIN at most MAX")
    return int(low), int(high or low)


class PromptConfig(StrictModel):
    """A prompt variant: what is put around the callers' words, over an unchanged model."""

    system: str | None = Field(
        default=None, description="system message of chats that bring none of their own (see replace_system)"
    )
    replace_system: bool = Field(default=False, description="put the system message also in place of the caller's")
    template: str | None = Field(
        default=None, description="text around a completion's prompt; must hold {prompt} once, the caller's words"
    )
    sampling: dict[str, Any] = Field(
        default={}, description="defaults for request fields that the caller leaves out, such as temperature"
    )

    @field_validator("template")
    @classmethod
    def _holds_prompt(cls, template: str | None) -> str | None:
        if template is not None and template.count("{prompt}") != 1:
            raise ValueError("the template must hold {prompt} exactly once")
        return template


class EngineConfig(StrictModel):
    """How each vLLM server runs."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="number format of weights and arithmetic; auto is float32 on a CPU, the model's on a GPU",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=8,
        description="longest prompt and answer together, in tokens; by default what the model was made for",
    )
    replicas: int | str = execution(
        1, description="vLLM servers for each base model: a number, or MIN:MAX to follow the requests; MIN may be 0"
    )
    target_ongoing: int | None = execution(
        None, ge=1, description="requests in flight for each replica that MIN:MAX aims at; by default max_num_seqs"
    )
    idle_seconds: float = execution(
        300.0, gt=0, description="quiet time after which a replica beyond those needed is given up"
    )
    max_num_seqs: int = execution(16, ge=1, description="requests that one vLLM server works on at a time")
    kv_cache_bytes: int | None = execution(
        None,
        ge=1 << 20,
        description="key-value cache of one server; by default enough for 4 requests of full length",
    )
    cpus: float = execution(1.0, gt=0, description="CPUs of one server (its arithmetic uses as many threads)")
    gpus: float | None = execution(
        None, ge=0, description="GPUs of one server; by default 1 where the cluster has any, otherwise 0"
    )
    adapter_slots: int | None = execution(
        None, ge=0, description="LoRA adapters that one server can hold; by default what the variants need and 2 more"
    )
    startup_timeout_seconds: float = execution(
        300.0, gt=0, description="how long one server may take until it answers its first request"
    )
    stall_seconds: float | None = execution(
        300.0,
        gt=0,
        description="a server that has requests and reads or writes no token for so long is replaced; longer than its "
        "longest prompt takes; null never",
    )
    python: str | None = execution(
        None, min_length=1, description="interpreter to run vLLM with, to try another version; by default Raymill's own"
    )
    extra_arguments: tuple[str, ...] = Field(
        default=(), description="more command-line arguments for the vLLM server, passed on as they are"
    )

    @field_validator("replicas")
    @classmethod
    def _are_bounds(cls, replicas: int | str) -> int | str:
        replica_bounds(replicas)
        return replicas


class VariantConfig(StrictModel):
    """One of the models that share the traffic."""

    name: str = Field(
        pattern=VARIANT_NAME,
        description="what the variant is called in weights, metrics and the X-Raymill-Variant header",
    )
    model: str = Field(min_length=1, description="@stage, a folder or an artifact id; full weights or an adapter")
    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="share of the users, relative to the other variants' weights"
    )
    prompt: PromptConfig | None = Field(
        default=None, description="words around the callers' own, and sampling defaults"
    )
    engine: dict[str, Any] = Field(
        default={}, description="keys of serving.engine that differ for this variant; it then has servers of its own"
    )


class AuthConfig(StrictModel):
    """Who may call."""

    require_keys: bool | Literal["auto"] = execution(
        "auto", description="whether callers need an API key; auto: unless the endpoint listens on loopback only"
    )


class LimitsConfig(StrictModel):
    """What one request may ask for, and how long anybody waits."""

    max_body_bytes: int = execution(8 << 20, ge=1024, description="largest request body; above it: 413")
    max_tokens: int | None = execution(
        None, ge=1, description="most tokens that one request may ask for in its answer; above it: 400"
    )
    max_choices: int = execution(16, ge=1, description="most answers (n, best_of) that one request may ask for")
    max_ongoing: int = execution(256, ge=1, description="requests in flight on one gateway; above it they queue")
    max_queued: int = execution(256, ge=0, description="requests that wait on one gateway; above it: 503")
    max_connections: int = execution(4096, ge=1, description="open connections of one gateway; above it: closed")
    queue_seconds: float = execution(
        30.0, gt=0, description="longest wait for a place or for an engine to wake; then 503 with Retry-After"
    )
    header_seconds: float = execution(15.0, gt=0, description="longest time a client may take to send its headers")
    body_seconds: float = execution(60.0, gt=0, description="longest time a client may take to send its body")
    try_seconds: float = execution(
        120.0, gt=0, description="longest wait for an engine's first byte, before the request goes to another one"
    )
    answer_seconds: float = execution(900.0, gt=0, description="longest time that one answer may take in all")
    event_seconds: float = execution(
        0.01,
        ge=0,
        le=1,
        description="events of a stream that follow within it are sent together, the last at once; 0: one by one",
    )
    stalled_seconds: float = execution(
        60.0, gt=0, description="longest time that a client may leave a streamed answer unread"
    )
    drain_seconds: float = execution(
        30.0, ge=0, description="time for answers in flight to finish when a gateway or an engine is to stop"
    )


class ShadowConfig(StrictModel):
    """A copy of some requests to a variant whose answers are measured and thrown away."""

    variant: str = Field(description="the variant that gets the copies")
    share: float = Field(0.1, gt=0, le=1, description="share of the requests that are copied")
    max_ongoing: int = execution(8, ge=1, description="copies in flight on one gateway; above it they are not made")


class ServingConfig(StrictModel):
    """Recipe section ``serving``."""

    variants: tuple[VariantConfig, ...] = Field(
        (
            VariantConfig(name="base", model="@pretrain", weight=90),
            VariantConfig(name="tuned", model="@finetune", weight=10),
        ),
        min_length=1,
        description="the models that answer, each with its weight",
    )
    model_name: str | None = Field(
        default=None, min_length=1, description="the model's name in the OpenAI API; by default the recipe's name"
    )
    experiment: str | None = Field(
        default=None, min_length=1, description="splits the users anew when changed; by default the recipe's name"
    )
    host: str = execution("127.0.0.1", min_length=1, description="address that the endpoint listens on")
    port: int = execution(8000, ge=0, le=65535, description="port that the endpoint listens on; 0 takes any free one")
    admin_port: int = execution(
        8001, ge=0, le=65535, description="port of the admin calls, on loopback; 0 takes any free one"
    )
    gateways: int = execution(2, ge=1, description="gateway processes on a node; the others go on when one dies")
    fallback: bool = execution(
        True, description="let another variant answer, marked and not counted, where a variant has no working engine"
    )
    engine: EngineConfig = Field(default=EngineConfig(), description="how each vLLM server runs")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="what one request may ask for")
    auth: AuthConfig = Field(default=AuthConfig(), description="who may call")
    shadow: ShadowConfig | None = Field(default=None, description="copies of requests to a variant, unseen by callers")
    rollout: RolloutConfig | None = Field(
        default=None, description="moves the users from one variant to another in steps, as far as the evidence allows"
    )

    @field_validator("variants")
    @classmethod
    def _names_differ(cls, variants: tuple[VariantConfig, ...]) -> tuple[VariantConfig, ...]:
        names = [variant.name for variant in variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"variant names must differ; given twice: {', '.join(twice)}")
        return variants

    @model_validator(mode="after")
    def _someone_answers(self) -> ServingConfig:
        if sum(variant.weight for variant in self.variants) <= 0:
            raise ValueError("at least one variant needs a weight above 0")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> ServingConfig:
        names = [variant.name for variant in self.variants]
        asked = {"shadow.variant": self.shadow.variant} if self.shadow else {}
        if self.rollout:
            asked |= {"rollout.candidate": self.rollout.candidate, "rollout.baseline": self.rollout.baseline}
        for key, name in asked.items():
            if name not in names:
                raise ValueError(f"{key}: no variant is called {name!r}; they are {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _candidate_has_no_users_yet(self) -> ServingConfig:
        candidate = self.rollout.candidate if self.rollout else None
        if any(variant.name == candidate and variant.weight > 0 for variant in self.variants):
            raise ValueError(f"the rollout gives {candidate} its users: its weight must be 0")
        return self

    @model_validator(mode="after")
    def _engines_are_valid(self) -> ServingConfig:
        for variant in self.variants:
            self.engine_of(variant)
        return self

    def weights(self) -> dict[str, float]:
        """Variant -> weight, in the order of the recipe."""
        return {variant.name: variant.weight for variant in self.variants}

    def engine_of(self, variant: VariantConfig) -> EngineConfig:
        """The engine settings of one variant: the section's, with its own in their place."""
        return EngineConfig.model_validate({**self.engine.model_dump(), **variant.engine})
