"""Recipe section ``finetune``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel
from cluster.errors import UserError
from cluster.stage import Stage
from pipelines.train.config import Count, TrainConfig, resolve_training
from pipelines.train.refusals import refuse_adapters

LLAMA_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices that vLLM can adapt."""

STAGE = Stage("finetune", "Adapter", 2, "pipelines.finetune.stage:run", resolve="pipelines.finetune.config:resolve")


class DocsPairs(StrictModel):
    """Questions about functions and classes, answered by the first paragraph of their docstrings."""

    kind: Literal["docs-pairs"] = "docs-pairs"
    max_pairs: Count | None = Field(
        default=None, ge=2, description="pairs to keep, chosen by a stable hash; by default all"
    )


class JsonlPairs(StrictModel):
    """A file of your own, one JSON object a line with the fields ``prompt`` and ``completion``."""

    kind: Literal["jsonl"]
    path: str = Field(description="the file, on the machine that runs the command")


class FinetuneConfig(TrainConfig):
    """Recipe section ``finetune``: LoRA (arXiv:2106.09685) on question-answer pairs, loss on the answers only."""

    method: Literal["lora"] = Field("lora", description="low-rank adapters beside the frozen model")
    rank: int = Field(8, ge=1, le=16, description="rank of the adapters; vLLM is started for ranks up to 16")
    alpha: float = Field(16.0, gt=0, description="the adapters' output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs dropped while training")
    target_modules: tuple[str, ...] = Field(LLAMA_MATRICES, min_length=1, description="matrices that get an adapter")
    data: Annotated[DocsPairs | JsonlPairs, Field(discriminator="kind")] = Field(
        DocsPairs(), description="docs-pairs: from the curated documents; jsonl: a file of your own"
    )
    validation_fraction: float = Field(0.05, gt=0, lt=0.5, description="share of the pairs held out, by a stable hash")
    sequence_length: int | None = Field(
        None, ge=16, description="tokens of a prompt with its answer; longer pairs are left out. By default the model's"
    )

    batch_sequences: Count = Field(32, ge=1, description="pairs in a batch, over all workers")
    learning_rate: float = Field(2e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of the adapters' matrices")

    @model_validator(mode="after")
    def _check_layout(self) -> FinetuneConfig:
        refuse_adapters(self)
        return self

    @field_validator("target_modules")
    @classmethod
    def _check_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(LLAMA_MATRICES))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} cannot be adapted: choose from {', '.join(LLAMA_MATRICES)}")
        return tuple(name for name in LLAMA_MATRICES if name in value)


def resolve(config: FinetuneConfig) -> dict[str, Any]:
    """Identity fields that ``auto`` became, and a file's content instead of its place.

    Raises:
        UserError: the file cannot be read.
    """
    fields = resolve_training(config)
    if isinstance(config.data, JsonlPairs):
        fields["data"] = {"kind": "jsonl", "sha256": file_digest(config.data.path)}
    return fields


def file_digest(path: str) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, next_step="check finetune.data.path") from None
