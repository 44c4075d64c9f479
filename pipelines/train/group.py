"""The processes that train together: who this one is, and the few things that they say to each other."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist

from pipelines.train.layout import Layout

SAVING_TIMEOUT = timedelta(minutes=30)
"""A rank whose storage is slow must not end the others."""


class Group:
    """The processes of a run; a group of one works without torch.distributed.

    Args:
        rank: this process's number.
        world: how many there are.
        device: where this one computes.
        layout: how they share the work; by default each has the whole model.
    """

    def __init__(
        self, rank: int = 0, world: int = 1, device: torch.device | None = None, layout: Layout | None = None
    ) -> None:
        self.rank = rank
        self.world = world
        self.device = device or torch.device("cpu")
        self.layout = layout or Layout(data=world)
        self.place = self.layout.place(rank)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def shares(self) -> int:
        """Parts that a batch is split into; this process works on part ``place.share``."""
        return self.layout.shares

    @property
    def is_last_stage(self) -> bool:
        """Whether this process computes the loss."""
        return self.place.pipeline == self.layout.pipeline - 1

    @property
    def counts(self) -> bool:
        """Whether this process's loss goes into the sum: of those that compute the same, one."""
        return self.is_last_stage and self.place.tensor == 0

    @cached_property
    def mesh(self) -> Any:
        """torch's name for the grid; the first use is a meeting of all processes."""
        from torch.distributed.device_mesh import init_device_mesh

        grid = self.layout
        return init_device_mesh(
            self.device.type,
            (grid.pipeline, grid.data, grid.shard, grid.tensor),
            mesh_dim_names=("pipeline", "data", "shard", "tensor"),
        )

    @cached_property
    def saving(self) -> Any:
        """Checkpoints' own group, so that their messages never mix with training's; None for a group of one."""
        return dist.new_group(backend="gloo", timeout=SAVING_TIMEOUT) if self.world > 1 else None

    @cached_property
    def ends(self) -> Any:
        """The first and the last stage of this process's pipeline, which share a tied embedding; None for others."""
        grid, mine = self.layout, None
        width = grid.world // grid.pipeline
        for line in range(width):
            ranks = [line, (grid.pipeline - 1) * width + line]
            group = dist.new_group(ranks)
            if self.rank in ranks:
                mine = group
        return mine

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def totals(self, values: torch.Tensor) -> list[float]:
        """Float64 figures of this process's share, summed over the batch: every process gets the same."""
        mine = values if self.counts else torch.zeros_like(values)
        summed = self.sum(mine.to(self.device, copy=True)).reshape(-1)
        return [float(each) for each in summed.cpu()]

    def agree(self, value: Any) -> Any:
        """The first process's value, everywhere."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.saving)
        return box[0]
