"""The model in reinforcement learning: what it thinks of its answers, beside the reference, and its value."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipelines.align.config import AlignConfig
from pipelines.align.losses import clipped_policy, clipped_value, entropies, token_logprobs
from pipelines.align.reference import Reference
from pipelines.train.task import IGNORED

VALUE_HEAD = "value_head"
"""The attribute of a model that holds PPO's value head: it trains with it, and is taken off before it is stored."""


def add_value_head(model: Any) -> None:
    """Give a model a linear value head on its last hidden state; at first it expects 0 everywhere."""
    head = nn.Linear(int(model.config.hidden_size), 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    setattr(model, VALUE_HEAD, head)


class Actor(nn.Module):
    """GRPO's and PPO's loss on batches of :class:`pipelines.align.rollouts.RolloutSamples`.

    Args:
        model: a causal model, maybe with a value head.
        temperature: what answers are drawn with; logits are divided by it everywhere.
        clip: how far a token's probability may move from when it was drawn, as a share.
        value_coefficient: weight of the value's error; used where there is a value head.
    """

    def __init__(self, model: Any, *, temperature: float, clip: float, value_clip: float, value_coefficient: float):
        super().__init__()
        self.model = model
        self._reference = [Reference(model)]  # in a list it is no part of this module
        self._temperature, self._clip = temperature, clip
        self._value_clip, self._value_coefficient = value_clip, value_coefficient
        self._values = hasattr(model, VALUE_HEAD)
        self.figures = ("policy_loss", "clipped", "moved", "entropy", *(["value_loss"] if self._values else []))

    @classmethod
    def of(cls, model: Any, config: AlignConfig) -> Actor:
        """As a recipe's section has it."""
        return cls(
            model,
            temperature=config.temperature,
            clip=config.clip,
            value_clip=config.value_clip,
            value_coefficient=config.value_coefficient,
        )

    @property
    def policy(self) -> Any:
        """The model that answers."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Where it is."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def look(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities of the labels now and by the reference, and values, all [rows, length]; no gradients."""
        with torch.no_grad():
            logits, values = self._run(inputs)
            with self._reference[0].model() as other:
                before = other(input_ids=inputs, use_cache=False).logits / self._temperature
            return token_logprobs(logits, labels), token_logprobs(before, labels), values

    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor, arguments: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the answers' tokens."""
        logits, values = self._run(inputs)
        counted = (labels != IGNORED).float()
        logprobs, old, advantages = token_logprobs(logits, labels), arguments["old"], arguments["advantages"]
        policy = clipped_policy(logprobs, old, advantages, self._clip) * counted
        with torch.no_grad():
            ratios = torch.exp(logprobs - old)
            beyond = ((ratios - 1).abs() > self._clip).float() * counted
            # An estimate of the KL divergence from the policy that drew the answers that is never below 0.
            moved = (ratios - 1 - (logprobs - old)) * counted
            further = [policy.detach(), beyond, moved, entropies(logits) * counted]
        loss = policy
        if self._values:
            value = clipped_value(values, arguments["values"], arguments["returns"], self._value_clip) * counted
            loss = policy + self._value_coefficient * value
            further.append(value.detach())
        columns = [loss.detach(), *further]
        return loss.sum(), torch.stack([column.double().sum() for column in columns])

    def _run(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(input_ids=inputs, use_cache=False, output_hidden_states=self._values)
        values = torch.zeros(inputs.shape, device=inputs.device)
        if self._values:
            values = getattr(self.model, VALUE_HEAD)(found.hidden_states[-1])[..., 0].float()
        return found.logits / self._temperature, values
