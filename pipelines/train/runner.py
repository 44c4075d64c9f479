"""A model arranged for training on this process: how it computes losses and gradients, whatever the layout.

A runner is asked for gradients of a batch's share, micro-batch by micro-batch, and for its parameters under the names
that they have in the undivided model; the loop, the optimiser and the checkpoints need no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.train.group import Group
from pipelines.train.loss import LossModule, sums
from pipelines.train.task import IGNORED, Batch


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that may be spread over several; it shares its memory."""
    return getattr(tensor, "_local_tensor", tensor)


class Runner(ABC):
    """See the module's text.

    Attributes:
        parameters: name -> trained parameter, of those that this process has.
        repeated: names that another process has and counts already (a tied output on a pipeline's last stage).
        figures: what is measured besides the loss; its sums follow the loss's.
    """

    group: Group
    parameters: dict[str, nn.Parameter]
    repeated: frozenset[str] = frozenset()
    figures: tuple[str, ...] = ()

    @abstractmethod
    def backward(self, batches: Sequence[Batch], targets: float) -> torch.Tensor:
        """Add the gradients of the mean loss over ``targets`` positions, or as much weight.

        Returns:
            the sums of this share, float64: the loss, or a vector of it and the figures.
        """

    @abstractmethod
    def losses(self, batches: Sequence[Batch]) -> torch.Tensor:
        """The sums of these micro-batches, as :meth:`backward` gives them, without gradients."""

    @abstractmethod
    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""

    @abstractmethod
    def weigh_z_loss(self, weight: float) -> None:
        """The z-loss's weight from now on; for an objective of a task's own it means nothing."""

    @property
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the model computes in."""
        return nullcontext()

    @property
    def pads(self) -> bool:
        """Whether all micro-batches must have one shape, and all shares the same number of them."""
        return False


class WholeRunner(Runner):
    """The model in one piece: alone, with DDP, sharded, or its tensors split.

    Args:
        module: the model with its loss, as it is called (maybe wrapped in DDP).
        sums_by_hand: gradients are averaged over the ``data`` dimension after the last micro-batch.
    """

    def __init__(
        self,
        module: Any,
        parameters: dict[str, nn.Parameter],
        group: Group,
        autocast: AbstractContextManager[Any],
        *,
        sums_by_hand: bool,
        figures: tuple[str, ...] = (),
    ) -> None:
        self.module = module
        self._loss = next((each for each in module.modules() if isinstance(each, LossModule)), None)
        self.figures = figures
        self.parameters = parameters
        self.group = group
        self._autocast = autocast
        self._sums_by_hand = sums_by_hand
        # A sum of two is the same in any order.
        self._settled = not isinstance(module, DistributedDataParallel) or group.shares < 3

    def backward(self, batches: Sequence[Batch], targets: float) -> torch.Tensor:
        """See :class:`Runner`. The averages that DDP and FSDP take over the shares are undone: a sum is wanted."""
        if not self._settled:
            self._settle_buckets(batches[-1])
        total = torch.zeros((), dtype=torch.float64)
        for number, batch in enumerate(batches):
            with self._quiet(last=number == len(batches) - 1):
                with self._autocast:
                    objective, entropy = self._call(batch)
                (objective * (self.group.shares / targets)).backward()
            total = total + entropy.double().cpu()
        settle_gradients(self.parameters)
        if self._sums_by_hand:
            average_gradients(self.parameters, self.group)
        return total

    def _settle_buckets(self, batch: Batch) -> None:
        """Compute gradients once for nothing, so that DDP adds up all steps' in one order.

        Which bucket a gradient is in decides the order of its sum over the processes, and DDP lays out its buckets
        anew after its first backward pass, by the order in which gradients came. Otherwise the first step after each
        start would be rounded in another way than the same step of a run that was never broken off.
        """
        devices = [self.group.device] if self.group.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            with self._autocast:
                objective, _ = self._call(batch)
            objective.backward()
        for parameter in self.parameters.values():
            parameter.grad = None
        self._settled = True

    def losses(self, batches: Sequence[Batch]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad(), self._autocast:
            for batch in batches:
                total = total + self._call(batch)[1].double().cpu()
        return total

    def train(self, mode: bool) -> None:
        self.module.train(mode)

    def weigh_z_loss(self, weight: float) -> None:
        if self._loss is not None:
            self._loss.z_loss = weight

    @property
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the model computes in."""
        return self._autocast

    def _call(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.group.device
        further = {name: value.to(device) for name, value in batch.arguments.items()}
        return self.module(batch.inputs.to(device), batch.labels.to(device), further)

    def _quiet(self, last: bool) -> AbstractContextManager[Any]:
        """DDP keeps gradients to itself until the last micro-batch."""
        return self.module.no_sync() if not last and hasattr(self.module, "no_sync") else nullcontext()


class PipelineRunner(Runner):
    """Some stages of a model that is cut into several.

    Args:
        parts: this process's stages.
        schedules: number of micro-batches -> torch's schedule for as many.
        tied: names of the output's and the embedding's weight where they are one parameter.
    """

    def __init__(
        self,
        parts: Sequence[nn.Module],
        parameters: dict[str, nn.Parameter],
        group: Group,
        autocast: AbstractContextManager[Any],
        make_schedule: Any,
        *,
        tied: tuple[str, str] | None,
        sums_by_hand: bool,
        z_loss: float,
    ) -> None:
        self.parts = parts
        self.parameters = parameters
        self.group = group
        self._autocast = autocast
        self._make = make_schedule
        self._schedules: dict[tuple[bool, tuple[int, ...]], Any] = {}
        self._sums_by_hand = sums_by_hand
        self._z_loss = z_loss
        self._scale = 0.0
        self._seen: list[torch.Tensor] = []
        self._shared: nn.Parameter | None = None
        if tied is not None:
            head, embedding = tied
            self._shared = parameters[head] if head in parameters else parameters.get(embedding)
            if head in parameters:  # the last stage: kept under the embedding's name, so that it is stored once
                parameters[embedding] = parameters.pop(head)
                self.repeated = frozenset({embedding})
        self._ends = group.ends if tied is not None else None

    @property
    def pads(self) -> bool:
        return True

    def backward(self, batches: Sequence[Batch], targets: float) -> torch.Tensor:
        total = self._step(batches, self.group.shares / targets, train=True)
        settle_gradients(self.parameters)
        if self._shared is not None and self._shared.grad is not None:
            dist.all_reduce(local(self._shared.grad), group=self._ends)
        if self._sums_by_hand:
            average_gradients(self.parameters, self.group)
        return total

    def losses(self, batches: Sequence[Batch]) -> torch.Tensor:
        with torch.no_grad():
            return self._step(batches, 1.0, train=False)

    def train(self, mode: bool) -> None:
        for part in self.parts:
            part.train(mode)

    def weigh_z_loss(self, weight: float) -> None:
        self._z_loss = weight

    def objective(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What the last stage differentiates; the schedule calls it once a micro-batch."""
        wanted, entropy = sums(logits, labels, self._z_loss)
        self._seen.append(entropy.double().cpu())
        return wanted * self._scale

    def _step(self, batches: Sequence[Batch], scale: float, *, train: bool) -> torch.Tensor:
        self._scale, self._seen = scale, []
        inputs = torch.cat([batch.inputs for batch in batches]).to(self.group.device)
        labels = torch.cat([batch.labels for batch in batches]).to(self.group.device)
        shape = (len(batches), *batches[0].inputs.shape)
        if (train, shape) not in self._schedules:  # torch's stages remember whether gradients were wanted at first
            self._schedules[train, shape] = self._make(self, *shape, train=train)
        schedule = self._schedules[train, shape]
        given = (inputs,) if self.group.place.pipeline == 0 else ()
        aims = {"target": labels, "losses": []} if self.group.is_last_stage else {}
        with self._autocast:
            (schedule.step if train else schedule.eval)(*given, **aims, return_outputs=False)
        return torch.stack(self._seen).sum() if self._seen else torch.zeros((), dtype=torch.float64)


def settle_gradients(parameters: dict[str, nn.Parameter]) -> None:
    """Spread every gradient as its parameter is: DTensor may leave it whole (an embedding's), or as parts of a sum."""
    for parameter in parameters.values():
        placements = getattr(parameter, "placements", None)
        gradient: Any = parameter.grad
        if placements is not None and gradient is not None and gradient.placements != placements:
            parameter.grad = gradient.redistribute(parameter.device_mesh, placements)


def average_gradients(parameters: dict[str, nn.Parameter], group: Group) -> None:
    """Average gradients over the copies of the model, in one message: where neither DDP nor FSDP does it."""
    if group.layout.data == 1:
        return
    gradients = [local(each.grad) for each in parameters.values() if each.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group.mesh["data"].get_group())
    flat /= group.layout.data
    for gradient, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def pad(batch: Batch, sequences: int) -> Batch:
    """A batch of so many sequences: the missing ones repeat the first and carry no loss."""
    missing = sequences - len(batch.inputs)
    if missing <= 0:
        return batch
    inputs = torch.cat([batch.inputs, batch.inputs[:1].expand(missing, -1)])
    labels = torch.cat([batch.labels, torch.full((missing, batch.labels.shape[1]), IGNORED)])
    return Batch(inputs, labels)
