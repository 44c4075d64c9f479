"""What the loop needs to know of a kind of training: its model, its samples, and what to do at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.train.config import TrainConfig
from pipelines.train.order import Indices

if TYPE_CHECKING:
    import torch

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
