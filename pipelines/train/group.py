"""The processes that train together: who this one is, and the few things that they say to each other."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Group:
    """A data-parallel group; a group of one works without torch.distributed.

    Args:
        rank: this process's number.
        world: how many there are.
        device: where this one computes.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.world = world
        self.device = device or torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the group."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def agree(self, value: Any) -> Any:
        """The first process's value, everywhere."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def quiet(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Keep gradients to oneself until the last micro-batch."""
        return nullcontext() if last or self.world == 1 else model.no_sync()
