"""The recipe's ``serving`` section: which models answer, with which share of the users, on which address."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel, execution


class VariantConfig(StrictModel):
    """One of the models that share the traffic."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        description="what the variant is called in weights, metrics and the X-Raymill-Variant header",
    )
    model: str = Field(min_length=1, description="@stage, a folder or an artifact id; full weights or an adapter")
    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="share of the users, relative to the other variants' weights"
    )


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
    replicas: int = execution(1, ge=1, description="vLLM servers for each model (variants on one base share them)")
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
    startup_timeout_seconds: float = execution(
        300.0, gt=0, description="how long one server may take until it answers its first request"
    )
    extra_arguments: tuple[str, ...] = Field(
        default=(), description="more command-line arguments for the vLLM server, passed on as they are"
    )


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
    engine: EngineConfig = Field(default=EngineConfig(), description="how each vLLM server runs")

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

    def weights(self) -> dict[str, float]:
        """Variant -> weight, in the order of the recipe."""
        return {variant.name: variant.weight for variant in self.variants}
