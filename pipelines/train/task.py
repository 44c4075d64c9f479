"""What the loop needs to know of a kind of training: its model, its samples, and what to do at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pipelines.train.config import TrainConfig
from pipelines.train.order import Indices

if TYPE_CHECKING:
    import torch

    from pipelines.train.group import Group
    from pipelines.train.runner import Runner

IGNORED = -100
"""A label that carries no loss."""


@dataclass(frozen=True)
class Batch:
    """What a model reads and what it has to predict.

    Attributes:
        inputs: token ids [sequences, length].
        labels: for each position of the logits the token to predict there, or IGNORED.
        arguments: further arguments of the model's ``forward`` by name, sequences first: ``position_ids``,
            ``attention_mask``, ``decoder_input_ids``.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    arguments: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Samples(Protocol):
    """Numbered training or validation sequences.

    Indices may be beyond the last: ``n`` is sample ``n mod len`` on its visit ``n div len``
    (:func:`pipelines.train.order.sample_visits`).
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Indices) -> Batch:
        """The sequences of these numbers."""

    def targets(self, indices: Indices) -> int:
        """How many of their positions carry loss; every rank works this out for the whole batch."""


class TrainTask(Protocol):
    """One kind of training. Tasks are pickled and sent to the workers; they hold settings and no tensors."""

    @property
    def config(self) -> TrainConfig:
        """The recipe's section."""

    @property
    def where(self) -> str:
        """The section's name, for messages."""

    def prepare(self, store: Any) -> None:
        """Fetch what the task reads; called first, once in every worker."""

    def model(self) -> torch.nn.Module:
        """The model to train, the same on every worker; torch is seeded before."""

    def samples(self) -> tuple[Samples, Samples]:
        """Training and validation samples."""

    def finish(self, model: torch.nn.Module, folder: Path, probe: Batch) -> dict[str, Any]:
        """Write the result's files to a folder, on rank 0; what the driver should know of them."""


@runtime_checkable
class CountsTokens(Protocol):
    """Samples whose loss is over something other than all their tokens: pairs of answers, masked tokens."""

    def tokens_of(self, indices: Indices) -> int:
        """Tokens that these samples train on: what throughput and MFU are about."""


@runtime_checkable
class Weighs(Protocol):
    """Samples that do not count alike: the mean loss is their sum, already weighted, over the sum of their weights."""

    def weight(self, indices: Indices) -> float:
        """The sum of the weights; figures besides the loss are still means over ``targets``."""


@runtime_checkable
class Gathers(Protocol):
    """Samples that the model makes itself: gathered with the weights of one step, used for ``stride`` steps.

    Checkpoints and validations fall between gatherings, so that a run that continues gathers the same again. Every
    process gathers its share of a batch.
    """

    @property
    def stride(self) -> int:
        """Steps that use what was gathered once."""

    def gather(self, indices: Indices, runner: Runner) -> dict[str, float]:
        """Make the samples of a batch; figures of the whole batch, among them ``loss``: what is to become small.

        What is random in a sample follows from the seed and its number, so that it is the same wherever it is made.
        """


@runtime_checkable
class OwnObjective(Protocol):
    """A task that minimises something other than the cross-entropy of its labels."""

    def objective(self, model: torch.nn.Module, group: Group) -> torch.nn.Module:
        """The model and its loss as one module, called as ``module(inputs, labels, arguments)``.

        It gives what is minimised, summed over targets, and a detached vector of sums: the loss that is reported, and
        the figures that its attribute ``figures`` names. A batch whose labels are all IGNORED adds nothing to either.
        """

    @property
    def advice(self) -> str:
        """What helps where :meth:`watch` ends a run."""

    def watch(self, figures: Mapping[str, float], memory: dict[str, Any]) -> str | None:
        """What is wrong with a step's figures, before it changes the weights; None where nothing is.

        Args:
            memory: plain JSON that is kept with checkpoints, to be written to.
        """
