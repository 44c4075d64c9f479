"""Fields that every kind of training has in its recipe section."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config import StrictModel, execution


def _whole(value: Any) -> Any:
    """Accept ``1e6`` where a whole number is meant."""
    if isinstance(value, float) and math.isfinite(value):
        if not value.is_integer():
            raise ValueError("must be a whole number")
        return int(value)
    return value


Count = Annotated[int, BeforeValidator(_whole)]


class TrainConfig(StrictModel):
    """How long, how fast and how safely to train. Batches are global: they do not change with the workers."""

    steps: Count | None = Field(None, ge=1, description="optimiser steps; or give epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the training data; or give steps")
    batch_sequences: Count = Field(16, ge=1, description="sequences in a batch, over all workers")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how the learning rate falls")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="share of the steps in which it rises")
    final_learning_rate_fraction: float = Field(0.1, ge=0, le=1, description="what is left of it at the end")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay; not on norms, biases and embeddings")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's averages of gradient and squared gradient")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    seed: int = Field(1, ge=0, lt=1 << 32, description="decides initial weights, data order and dropout")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs, fp32 on CPUs (bf16 is many times slower there)"
    )
    validation_sequences: Count = Field(128, ge=1, description="sequences in each validation, fixed by the seed")

    workers: int = execution(2, ge=1, description="training processes; at most batch_sequences")
    gpus_per_worker: int = execution(0, ge=0, le=1, description="GPUs a training process has")
    threads_per_worker: int = execution(1, ge=1, description="CPU threads a training process computes with")
    micro_batch_sequences: Count | None = execution(
        None, ge=1, description="sequences a worker holds at once; more are summed up in turns"
    )
    validation_every_steps: Count | None = execution(None, ge=1, description="by default ten times a run")
    checkpoint_every_steps: Count | None = execution(None, ge=1, description="by default ten times a run")
    max_worker_failures: int = execution(
        3, ge=0, description="lost workers to recover from, from the newest checkpoint, before giving up"
    )

    @model_validator(mode="after")
    def _check_budget(self) -> TrainConfig:
        given = [name for name in self.budget_fields() if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each fix the length of the run: keep one of them")
        if self.workers > self.batch_sequences:
            raise ValueError(
                f"workers {self.workers} leaves some without a sequence: set workers: {self.batch_sequences} "
                "or raise batch_sequences"
            )
        return self

    def budget_fields(self) -> tuple[str, ...]:
        """The fields of which at most one is given."""
        return ("steps", "epochs")

    def total_steps(self, sequences: int, tokens_per_sequence: float) -> int:
        """Optimiser steps on a training set of that many sequences; one pass where the recipe says nothing."""
        if self.steps is not None:
            return self.steps
        return max(round((self.epochs or 1.0) * sequences / self.batch_sequences), 1)

    def resolved_precision(self) -> Literal["fp32", "bf16"]:
        """What ``auto`` becomes."""
        if self.precision == "auto":
            return "bf16" if self.gpus_per_worker else "fp32"
        return self.precision


def resolve_training(config: TrainConfig) -> dict[str, Any]:
    """Identity fields that ``auto`` values became."""
    return {"precision": config.resolved_precision()}
