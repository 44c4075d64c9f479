"""Losses of alignment, written as their papers have them; each is tested against trl's or against worked values.

Log-probabilities are in nats; "answers" are rows, and a row's are summed over the tokens that it writes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from pipelines.train.task import IGNORED


def token_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label [rows, length] under logits [rows, length, vocabulary]; 0 where it is IGNORED."""
    flat = logits.flatten(0, 1).float()
    return -functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="none").view_as(labels)


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each position's distribution [rows, length], in nats."""
    logs = functional.log_softmax(logits.float(), dim=-1)
    return -(logs.exp() * logs).sum(-1)


def divergences(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL divergence of each position's distribution from the reference's [rows, length], in nats."""
    logs, others = (functional.log_softmax(each.float(), dim=-1) for each in (logits, reference))
    return (logs.exp() * (logs - others)).sum(-1)


class Preferred(NamedTuple):
    """Losses of pairs, and what the model thinks of either answer; all [pairs]."""

    losses: torch.Tensor
    chosen_rewards: torch.Tensor
    rejected_rewards: torch.Tensor


def dpo(chosen_ratios: torch.Tensor, rejected_ratios: torch.Tensor, beta: float) -> Preferred:
    """Direct preference optimisation (arXiv:2305.18290, equation 7).

    Args:
        chosen_ratios: log-probability of the preferred answers, less the reference's, [pairs].
        rejected_ratios: the same of the others.
        beta: how hard the reference pulls.
    """
    chosen, rejected = beta * chosen_ratios, beta * rejected_ratios
    return Preferred(-functional.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())


def simpo(chosen_means: torch.Tensor, rejected_means: torch.Tensor, beta: float, margin: float) -> Preferred:
    """Simple preference optimisation (arXiv:2405.14734, equation 6): no reference, and no reward for length.

    Args:
        chosen_means: log-probability of the preferred answers, the mean over their tokens, [pairs].
        rejected_means: the same of the others.
        margin: by how much the one is to be ahead of the other (gamma in the paper).
    """
    chosen, rejected = beta * chosen_means, beta * rejected_means
    return Preferred(-functional.logsigmoid(chosen - rejected - margin), chosen.detach(), rejected.detach())


def ranking(chosen_scores: torch.Tensor, rejected_scores: torch.Tensor) -> Preferred:
    """What a reward model minimises (Bradley & Terry 1952, as in arXiv:2203.02155, equation 1); scores are [pairs]."""
    losses = -functional.logsigmoid(chosen_scores - rejected_scores)
    return Preferred(losses, chosen_scores.detach(), rejected_scores.detach())


def clipped_policy(logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """PPO's clipped objective as a loss of each token (arXiv:1707.06347, equation 7); all of one shape."""
    ratios = torch.exp(logprobs - old)
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of each value, the larger of that as it is and as it is near its old one (PPO's code)."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
