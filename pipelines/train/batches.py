"""A batch's losses and gradients: shared out over processes and micro-batches, the same sum however that is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.train.config import TrainConfig
from pipelines.train.layout import micro_batches_of
from pipelines.train.order import Indices, sample_indices
from pipelines.train.runner import Runner, pad
from pipelines.train.task import IGNORED, Batch, Samples, Weighs

VALIDATION_SEED = 0x5EED


@dataclass(frozen=True)
class Measured:
    """Means over a whole batch's targets: the loss, in nats, and by name what else the objective measures."""

    loss: float
    figures: dict[str, float]

    @classmethod
    def of(cls, runner: Runner, sums: torch.Tensor, targets: int, weight: float) -> Measured:
        """From the sums of this process's share; every process gets the same. The loss is over ``weight``."""
        loss, *rest = runner.group.totals(sums)
        return cls(loss / weight, dict(zip(runner.figures, [each / targets for each in rest], strict=True)))


def weight_of(samples: Samples, indices: Indices) -> float:
    """What a sum of losses is divided by: the samples' weights, or their targets."""
    return samples.weight(indices) if isinstance(samples, Weighs) else samples.targets(indices)


def accumulate(runner: Runner, samples: Samples, indices: Indices, config: TrainConfig) -> tuple[Measured, int]:
    """Gradients of the mean loss over a global batch, of which this process computes its share.

    The share's losses are summed and divided by the whole batch's targets, so that the result does not depend on
    how many processes or micro-batches there are.

    Returns:
        the means and the targets of the whole batch.
    """
    targets, weight = samples.targets(indices), weight_of(samples, indices)
    total = runner.backward(list(micro_batches(runner, samples, indices, config)), weight)
    return Measured.of(runner, total, targets, weight), targets


def evaluate(runner: Runner, samples: Samples, indices: Indices, config: TrainConfig) -> Measured:
    """Means over the targets of validation sequences, shared out over the group."""
    runner.train(False)
    size = config.batch_sequences
    total = torch.zeros((), dtype=torch.float64)
    for first in range(0, len(indices), size):
        total = total + runner.losses(list(micro_batches(runner, samples, indices[first : first + size], config)))
    runner.train(True)
    return Measured.of(runner, total, samples.targets(indices), weight_of(samples, indices))


def validation_indices(samples: Samples, config: TrainConfig) -> Indices:
    """Which validation sequences are used: the same in every validation and for every number of workers."""
    return sample_indices(0, min(config.validation_sequences, len(samples)), len(samples), VALIDATION_SEED)


def micro_batches(runner: Runner, samples: Samples, indices: Indices, config: TrainConfig) -> Iterator[Batch]:
    """This process's share of a global batch, in as many parts as every other process has.

    A part without a sequence of its own repeats one of the batch's, without loss: all processes compute together.
    Where all parts must have one shape they have that of a full batch's.
    """
    group = runner.group
    sequences = config.batch_sequences if runner.pads else len(indices)
    largest = -(-sequences // group.shares)
    parts = micro_batches_of(largest, config.micro_batch_sequences, group.layout.pipeline)
    for part in split(indices, group.shares, group.place.share, parts):
        batch = samples.batch(part) if len(part) else silent(samples.batch(indices[:1]))
        yield pad(batch, -(-largest // parts)) if runner.pads else batch


def split(indices: Indices, shares: int, which: int, parts: int) -> list[Indices]:
    """One of the shares of a batch, in so many parts, some of them maybe empty."""
    return np.array_split(indices[which::shares], parts)


def silent(batch: Batch) -> Batch:
    """The batch with no position that carries loss."""
    return Batch(batch.inputs, torch.full_like(batch.labels, IGNORED), batch.arguments)
