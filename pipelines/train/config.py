"""Fields that every kind of training has in its recipe section."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cluster.config import StrictModel, execution
from pipelines.train.changes import ChangeConfig, check_changes, plain_changes
from pipelines.train.layout import ParallelConfig, micro_batches_of, plan_layout

if TYPE_CHECKING:
    from pipelines.train.shaping import Shaping


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
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field(
        "cosine", description="how the learning rate falls; wsd stays high and falls at the end only"
    )
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="share of the steps in which it rises")
    final_learning_rate_fraction: float = Field(0.1, ge=0, le=1, description="what is left of it at the end")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="wsd: share of the steps, the last ones, in which it falls"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: orthogonalised momentum for the layers' matrices (AdamW for the rest), which needs "
        "fewer steps and half the memory",
    )
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay; not on norms, biases and embeddings")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's averages of gradient and squared gradient")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    z_loss: float = Field(0.0, ge=0, description="weight of the squared log-normaliser of the logits, such as 1e-4")
    changes: tuple[ChangeConfig, ...] = Field(
        (),
        # Part of the identity where there are any: `resolve_training` adds them.
        json_schema_extra={"identity": False},
        description="values that change in mid-training, each as {at_fraction: 0.5, learning_rate: 1e-3} with any of "
        "learning_rate, weight_decay, gradient_clip, z_loss",
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="decides initial weights, data order and dropout")
    precision: Literal["auto", "fp32", "bf16", "fp8"] = Field(
        "auto",
        description="auto: bf16 on GPUs that have it, else fp32 (on CPUs bf16 is many times slower); fp8 needs a "
        "Hopper GPU and torchao",
    )
    validation_sequences: Count = Field(128, ge=1, description="sequences in each validation, fixed by the seed")
    early_stopping: Count | None = Field(
        None, ge=1, description="validations without improvement that end the run; the best checkpoint is the result"
    )
    loss_spike: float = Field(
        2.0, gt=0, description="nats above the mean of the last steps at which a loss counts as a spike"
    )
    max_rollbacks: int = Field(
        3,
        ge=0,
        description="times to go back to a good checkpoint and skip the data after a spike or NaN, then give up",
    )

    workers: int = execution(2, ge=1, description="training processes")
    max_workers: int | None = execution(
        None, ge=1, description="use up to as many where the cluster has room, from `workers` upwards (elastic)"
    )
    parallel: ParallelConfig = execution(default_factory=ParallelConfig, description="how the workers share the model")
    gpus_per_worker: int = execution(0, ge=0, le=1, description="GPUs a training process has")
    threads_per_worker: int = execution(1, ge=1, description="CPU threads a training process computes with")
    micro_batch_sequences: Count | None = execution(
        None, ge=1, description="sequences a worker holds at once; more are summed up in turns"
    )
    validation_every_steps: Count | None = execution(None, ge=1, description="by default ten times a run")
    checkpoint_every_steps: Count | None = execution(None, ge=1, description="by default ten times a run")
    keep_checkpoints: int = execution(2, ge=2, description="newest checkpoints that are kept")
    keep_best: bool = execution(False, description="keep the checkpoint with the lowest validation loss as well")
    recompute: Literal["none", "selective", "full"] = execution(
        "none", description="activation checkpointing: saves memory, costs time; selective keeps matrix products"
    )
    compile: bool = execution(False, description="torch.compile: minutes at the start, faster steps after")
    tensorboard: bool = execution(False, description="write TensorBoard events beside metrics.jsonl")
    mlflow: str | None = execution(
        None, min_length=1, description="MLflow's tracking URI, to log the curves there as well; needs mlflow"
    )
    max_worker_failures: int = execution(
        3, ge=0, description="lost workers to recover from, from the newest checkpoint, before giving up"
    )

    @field_validator("changes")
    @classmethod
    def _check_order(cls, changes: tuple[ChangeConfig, ...]) -> tuple[ChangeConfig, ...]:
        check_changes(changes)
        return changes

    @model_validator(mode="after")
    def _check_budget(self) -> TrainConfig:
        given = [name for name in self.budget_fields() if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each fix the length of the run: keep one of them")
        check_changes(self.changes, self.steps)
        most = max(self.workers, self.max_workers or 0)
        if self.max_workers is not None and (self.parallel.fixed > 1 or self.parallel.data is not None):
            raise ValueError("max_workers adds copies of the model as the cluster grows: leave parallel out with it")
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"max_workers {self.max_workers} is below workers {self.workers}: raise it or leave it out"
            )
        if self.precision == "fp8" and self.parallel.fixed > 1:
            raise ValueError("precision fp8 is for whole models, with parallel.data only: use bf16 with other layouts")
        if self.precision == "fp8" and not self.gpus_per_worker:
            raise ValueError(
                "precision fp8 needs GPUs of the Hopper generation or later: set gpus_per_worker: 1, or precision: auto"
            )
        layout = plan_layout(self.parallel, self.workers)
        shares = max(layout.shares, most if self.max_workers else 0)
        if shares > self.batch_sequences:
            raise ValueError(
                f"workers {most} leaves some without a sequence: set workers: {self.batch_sequences} "
                "or raise batch_sequences"
            )
        self._check_pipeline(-(-self.batch_sequences // layout.shares))
        if self.optimizer == "muon" and layout.shard * layout.tensor > 1:
            raise ValueError(
                "optimizer muon works on whole matrices, and parallel.shard or parallel.tensor cuts them: "
                "use adamw, or copies (parallel.data) and a pipeline"
            )
        return self

    def _check_pipeline(self, share: int) -> None:
        """Refuse a schedule that cannot be; ``share`` is the sequences of a worker's part of a batch."""
        parallel = self.parallel
        if parallel.pipeline == 1:
            return
        parts = micro_batches_of(share, self.micro_batch_sequences, parallel.pipeline)
        if parts < parallel.pipeline:
            raise ValueError(
                f"a pipeline of {parallel.pipeline} needs as many micro-batches, and a worker's {share} sequences make "
                f"{parts}: lower micro_batch_sequences or raise batch_sequences"
            )
        rounds = max(1, parts // parallel.pipeline)
        if parallel.schedule == "interleaved" and parts % rounds:
            raise ValueError(
                f"an interleaved pipeline of {parallel.pipeline} cannot run {parts} micro-batches: make them a "
                f"multiple of {parallel.pipeline} with micro_batch_sequences"
            )

    def budget_fields(self) -> tuple[str, ...]:
        """The fields of which at most one is given."""
        return ("steps", "epochs")

    def total_steps(self, sequences: int, tokens_per_sequence: float) -> int:
        """Optimiser steps on a training set of that many sequences; one pass where the recipe says nothing."""
        if self.steps is not None:
            return self.steps
        return max(round((self.epochs or 1.0) * sequences / self.batch_sequences), 1)

    def shaping(self, model: Any) -> Shaping | None:
        """How training differs between this model's parameters; None where all are trained alike."""
        return None

    def resolved_precision(self) -> Literal["fp32", "bf16", "fp8"]:
        """What ``auto`` becomes, on GPUs that have bf16; see :func:`pipelines.train.worker.on_hardware`."""
        if self.precision == "auto":
            return "bf16" if self.gpus_per_worker else "fp32"
        return self.precision


def resolve_training(config: TrainConfig) -> dict[str, Any]:
    """Identity fields that ``auto`` values became, and how often one validates where that decides when a run ends."""
    # What auto becomes on GPUs is seen only where they are.
    fields: dict[str, Any] = {"precision": config.precision if config.gpus_per_worker else config.resolved_precision()}
    if config.changes:
        fields["changes"] = plain_changes(config.changes)
    if config.early_stopping is not None:
        fields["validation_every_steps"] = config.validation_every_steps
    return fields
