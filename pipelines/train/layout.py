"""How training processes share the work: copies, shards, tensor parallelism, pipelines. Loads nothing heavy.

The processes form a grid ``pipeline x data x shard x tensor``, the last varying fastest, so that those who talk most
(tensor) are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.config import StrictModel, execution


class ParallelConfig(StrictModel):
    """How the workers share a model. Nothing here changes a result by more than rounding."""

    data: int | None = execution(
        None, ge=1, description="copies of the model, each with its share of a batch (DDP); by default what is left"
    )
    shard: int = execution(
        1, ge=1, description="workers that keep one copy together, each a part of every layer (FSDP2; HSDP with data)"
    )
    tensor: int = execution(1, ge=1, description="workers that compute each layer together, each some heads (llama)")
    pipeline: int = execution(1, ge=1, description="workers that have consecutive layers (llama, gpt2)")
    schedule: Literal["1f1b", "interleaved"] = execution(
        "1f1b", description="order of a pipeline's micro-batches; interleaved idles less and sends more"
    )
    stages_per_worker: int = execution(2, ge=2, description="parts of the model a worker has with interleaved")

    @property
    def fixed(self) -> int:
        """Workers that one copy of the model needs."""
        return self.shard * self.tensor * self.pipeline

    @property
    def stages(self) -> int:
        """Parts that the model's layers are cut into."""
        return self.pipeline * (self.stages_per_worker if self.schedule == "interleaved" and self.pipeline > 1 else 1)


@dataclass(frozen=True)
class Layout:
    """The grid's dimensions."""

    data: int = 1
    shard: int = 1
    tensor: int = 1
    pipeline: int = 1

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.data * self.shard * self.tensor * self.pipeline

    @property
    def shares(self) -> int:
        """Parts that a batch is split into."""
        return self.data * self.shard

    @property
    def plain(self) -> bool:
        """Whether every process has a whole model."""
        return self.data == self.world

    def place(self, rank: int) -> Place:
        """Where a process stands in the grid."""
        rest, tensor = divmod(rank, self.tensor)
        rest, shard = divmod(rest, self.shard)
        pipeline, data = divmod(rest, self.data)
        return Place(pipeline, data, shard, tensor, data * self.shard + shard)


@dataclass(frozen=True)
class Place:
    """Coordinates in the grid; ``share`` is the part of a batch that this process works on."""

    pipeline: int
    data: int
    shard: int
    tensor: int
    share: int


def plan_layout(parallel: ParallelConfig, workers: int) -> Layout:
    """The grid for a number of workers.

    Raises:
        ValueError: it cannot be filled; the message names the keys.
    """
    fixed = parallel.fixed
    data = parallel.data
    if data is None:
        data, left = divmod(workers, fixed)
        if left or not data:
            raise ValueError(
                f"workers {workers} cannot be arranged as shard {parallel.shard} x tensor {parallel.tensor} x pipeline "
                f"{parallel.pipeline}: set workers to a multiple of {fixed}"
            )
    if data * fixed != workers:
        raise ValueError(
            f"parallel asks for data {data} x shard {parallel.shard} x tensor {parallel.tensor} x pipeline "
            f"{parallel.pipeline} = {data * fixed} workers, and workers is {workers}: set workers: {data * fixed}"
        )
    return Layout(data, parallel.shard, parallel.tensor, parallel.pipeline)


def micro_batches_of(share: int, micro: int | None, pipeline: int) -> int:
    """How many parts a worker's share of a batch is computed in; a pipeline needs one a stage at least."""
    size = micro or (max(share // pipeline, 1) if pipeline > 1 else share)
    return -(-share // size)
