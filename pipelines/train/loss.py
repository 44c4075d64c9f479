"""Cross-entropy, and optionally the z-loss, summed over the positions that carry loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.train.task import IGNORED


def sums(logits: torch.Tensor, labels: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What is minimised, and the cross-entropy in nats that is reported; both summed over positions.

    The z-loss (PaLM, arXiv:2204.02311) is ``z_loss * log(sum(exp(logits)))^2``: it keeps logits from drifting.
    """
    flat, targets = logits.flatten(0, 1).float(), labels.flatten()
    entropy = functional.cross_entropy(flat, targets, ignore_index=IGNORED, reduction="sum")
    if not z_loss:
        return entropy, entropy.detach()
    normaliser = torch.logsumexp(flat, dim=-1).square()
    return entropy + z_loss * (normaliser * (targets != IGNORED)).sum(), entropy.detach()


class LossModule(nn.Module):
    """A model and its loss as one module, so that one compiled graph and one DDP wrapper hold both."""

    def __init__(self, model: nn.Module, z_loss: float) -> None:
        super().__init__()
        self.model = model
        self.z_loss = z_loss

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`sums`."""
        logits = self.model(input_ids=inputs, use_cache=False, **arguments).logits
        logits = logits[:, -labels.shape[1] :]  # a learned prompt in front of the tokens has logits of its own
        return sums(logits, labels, self.z_loss)
