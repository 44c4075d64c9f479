"""Losses of preference pairs as modules that the loop calls; see :class:`pipelines.train.task.OwnObjective`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from pipelines.align.losses import Preferred, divergences, dpo, entropies, ranking, simpo, token_logprobs
from pipelines.align.reference import Reference
from pipelines.train.task import IGNORED

PAIR_FIGURES = ("accuracy", "margin", "chosen_reward", "rejected_reward")


class PairObjective(nn.Module):
    """DPO or SimPO on batches of :class:`pipelines.align.pairs.PairSamples`.

    Args:
        reference: what DPO's ratios are to; None for SimPO.
        beta, margin: see :mod:`pipelines.align.losses`.
    """

    def __init__(
        self, model: Any, method: Literal["dpo", "simpo"], reference: Reference | None, *, beta: float, margin: float
    ) -> None:
        super().__init__()
        self.model = model
        self.figures = (*PAIR_FIGURES, "entropy", *(["kl_per_token"] if reference else []))
        # In a list it is no part of this module: neither trained, nor kept in checkpoints, nor averaged.
        self._reference = [reference]
        self._method, self._beta, self._margin = method, beta, margin

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over pairs; a pair without a label counts for nothing."""
        logits = self.model(input_ids=inputs, use_cache=False).logits
        logprobs = token_logprobs(logits, labels)
        answers = labels != IGNORED
        lengths = answers.sum(1).clamp(min=1)
        reference = self._reference[0]
        further = [_row_means(entropies(logits.detach()), answers)]
        if reference is None:
            chosen, rejected = (logprobs.sum(1) / lengths).chunk(2)
            found = simpo(chosen, rejected, self._beta, self._margin)
        else:
            with torch.no_grad(), reference.model() as other:
                other_logits = other(input_ids=inputs, use_cache=False).logits
            others = token_logprobs(other_logits, labels)
            further.append(_row_means(divergences(logits.detach(), other_logits), answers))
            chosen, rejected = (logprobs.sum(1) - others.sum(1)).chunk(2)
            found = dpo(chosen, rejected, self._beta)
        return _summed(found, answers.any(1).chunk(2)[0], [each.view(2, -1).mean(0) for each in further])


class RankingObjective(nn.Module):
    """A reward model's loss: its score of the preferred answer is to be above that of the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.figures = PAIR_FIGURES

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over pairs; a pair without a label counts for nothing."""
        scores = self.model(input_ids=inputs, use_cache=False).logits[:, 0].float()
        return _summed(ranking(*scores.chunk(2)), (labels != IGNORED).any(1).chunk(2)[0], [])


def _row_means(values: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    return (values * answers).sum(1) / answers.sum(1).clamp(min=1)


def _summed(found: Preferred, counted: torch.Tensor, further: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = found.chosen_rewards, found.rejected_rewards
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()  # a tie is a toss of a coin
    columns = [found.losses.detach(), right, chosen - rejected, chosen, rejected, *further]
    weights = counted.to(found.losses.dtype)
    return (found.losses * weights).sum(), torch.stack([(column * weights).sum() for column in columns]).double()
