"""Cross-entropy of labels, each weighted; see :class:`pipelines.train.task.OwnObjective`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.train.task import IGNORED


class LabelObjective(nn.Module):
    """A classifier and its loss: torch's weighted cross-entropy, before it is divided by the sum of the weights.

    Args:
        weights: of each label by its number; None where all count the same.
    """

    figures = ("accuracy",)

    def __init__(self, model: Any, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.model = model
        self._weights = None if weights is None else torch.tensor(weights)
        self._further = {"use_cache": False} if takes_cache(model) else {}

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over texts: the loss, weighted; and how many labels are right, each counted once."""
        logits = self.model(input_ids=inputs, **arguments, **self._further).logits.float()
        weights = None if self._weights is None else self._weights.to(logits.device)
        loss = functional.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORED, reduction="sum")
        right = (logits.argmax(-1) == labels).sum()  # no label is IGNORED
        return loss, torch.stack([loss.detach().double(), right.double()])


def takes_cache(model: Any) -> bool:
    """Whether a classifier, maybe with an adapter, is a decoder that would keep keys and values."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "use_cache" in inspect.signature(type(base).forward).parameters
