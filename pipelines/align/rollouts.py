"""Answers that the model gives while it trains, as samples: drawn, scored and compared before each few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

from pipelines.align.actor import Actor
from pipelines.align.advantages import generalised, within_groups
from pipelines.align.answer_writers import GENERATED_AT_ONCE, AnswerWriter, Asked, ModelWriter
from pipelines.align.config import AlignConfig
from pipelines.align.importance import importance, require_near
from pipelines.align.rewards import Reward
from pipelines.finetune.examples.records import Messages
from pipelines.train.group import Group
from pipelines.train.order import Indices
from pipelines.train.runner import Runner
from pipelines.train.task import IGNORED, Batch

TOKEN_FIGURES = ("old", "values", "advantages", "returns")
"""What the loss reads of each token."""


@dataclass(frozen=True)
class Prompt:
    """What the model is asked.

    Attributes:
        ids: its tokens under the chat template.
    """

    messages: Messages
    ids: tuple[int, ...]


@dataclass
class Rollout:
    """One answer and all that training needs of it; arrays have a value for each of its tokens.

    Attributes:
        old: log-probabilities when it was drawn, at the temperature that it was drawn with.
        drawn: the same as an engine apart computed them; None where the model in training drew the answer.
        values: what a value head expected before each token; zeros without one.
    """

    prompt: Prompt
    answer: list[int]
    ended: bool
    reward: float
    old: np.ndarray[Any, Any]
    reference: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    advantages: np.ndarray[Any, Any]
    returns: np.ndarray[Any, Any]
    drawn: np.ndarray[Any, Any] | None = None

    @property
    def kl(self) -> float:
        """How much likelier it is to the model than to the reference, in nats: the mean of it is the KL divergence."""
        return float((self.old - self.reference).sum())


class RolloutSamples:
    """See :class:`pipelines.train.task.Gathers`. A sample is a prompt with as many answers as the method compares.

    Args:
        stops: tokens that end an answer.
        decode: token ids -> the text that the reward sees.
        seed: decides what is drawn; training and validation have different ones.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        decode: Callable[[list[int]], str],
        stops: Sequence[int],
        pad_id: int,
        config: AlignConfig,
        seed: int,
    ) -> None:
        self._prompts, self._decode = prompts, decode
        self._stops, self._pad_id, self._config, self._seed = frozenset(stops), pad_id, config, seed
        self._held: dict[int, list[Rollout]] = {}
        self._tokens = 0

    def connect(self, actor: Actor, reward: Reward, writer: AnswerWriter | None = None) -> None:
        """Say who answers, and what answers are worth; before anything is gathered.

        Args:
            writer: what writes the answers; by default the actor's model itself.
        """
        self._actor, self._reward = actor, reward
        self._writer = writer or ModelWriter(actor, self._config, self._pad_id)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def stride(self) -> int:
        """Optimiser steps on each rollout."""
        return self._config.updates_per_rollout

    def gather(self, indices: Indices, runner: Runner) -> dict[str, float]:
        """Draw this process's share of the answers, score them, and work out how good each token was."""
        group = runner.group
        runner.train(False)
        mine = [int(visit) for visit in indices[group.place.share :: group.shares]]
        with torch.no_grad(), runner.autocast:
            rollouts = self._draw(mine)
            self._measure(rollouts)
        runner.train(True)
        self._judge(rollouts)
        self._compare(rollouts, group)
        for rollout in rollouts:
            if rollout.drawn is not None:
                rollout.advantages = rollout.advantages * importance(rollout.old, rollout.drawn)
        size = self._config.group_size
        self._held = {visit: rollouts[n * size : (n + 1) * size] for n, visit in enumerate(mine)}
        return self._figures(rollouts, group)

    def batch(self, indices: Indices) -> Batch:
        """Rows of the prompts' answers; for a prompt that another process has, rows of one of this process's."""
        first = next(iter(self._held.values()))
        rows = [each for index in indices for each in self._held.get(int(index), first)]
        length = max(len(each.prompt.ids) + len(each.answer) for each in rows) - 1
        inputs, labels = _rows(rows, length, self._pad_id)
        further = {name: np.zeros((len(rows), length), np.float32) for name in TOKEN_FIGURES}
        for number, row in enumerate(rows):
            begin = len(row.prompt.ids) - 1
            for name, place in further.items():
                place[number, begin : begin + len(row.answer)] = getattr(row, name)
        return Batch(inputs, labels, {name: torch.from_numpy(place) for name, place in further.items()})

    def targets(self, indices: Indices) -> int:
        """Tokens of the answers of the whole batch that was gathered last; before that the most that there can be."""
        return self._tokens or len(indices) * self._config.group_size * self._config.answer_tokens

    def texts(self, count: int) -> list[dict[str, Any]]:
        """Some of the answers gathered last, for the report."""
        shown = [each[0] for each in list(self._held.values())[:count]]
        return [
            {"prompt": each.prompt.messages[-1].content, "answer": self._decode(each.answer), "reward": each.reward}
            for each in shown
        ]

    def _draw(self, visits: list[int]) -> list[Rollout]:
        asked = [(visit, number) for visit in visits for number in range(self._config.group_size)]
        prompts = [self._prompts[visit % len(self)] for visit, _ in asked]
        answers = self._writer.write(
            [Asked(prompt.ids, self._seed, *which) for prompt, which in zip(prompts, asked, strict=True)], self._stops
        )
        rollouts = []
        for prompt, answer in zip(prompts, answers, strict=True):
            nothing = np.zeros(len(answer.tokens))
            ended = answer.tokens[-1] in self._stops
            rollout = Rollout(prompt, answer.tokens, ended, 0.0, nothing, nothing, nothing, nothing, nothing)
            rollout.drawn = answer.logprobs
            rollouts.append(rollout)
        return rollouts

    def _measure(self, rollouts: list[Rollout]) -> None:
        """Log-probabilities by one forward pass as training makes it, so that ratios begin at 1."""
        at_once = (self._config.micro_batch_sequences or 0) * self._config.group_size or GENERATED_AT_ONCE
        for first in range(0, len(rollouts), at_once):
            part = rollouts[first : first + at_once]
            length = max(len(each.prompt.ids) + len(each.answer) for each in part) - 1
            inputs, labels = (each.to(self._actor.device) for each in _rows(part, length, self._pad_id))
            seen = self._actor.look(inputs, labels)
            for number, row in enumerate(part):
                begin = len(row.prompt.ids) - 1
                span = slice(begin, begin + len(row.answer))
                row.old, row.reference, row.values = (each[number, span].double().cpu().numpy() for each in seen)

    def _judge(self, rollouts: list[Rollout]) -> None:
        answers = [self._decode(each.answer) for each in rollouts]
        rewards = self._reward.scores([each.prompt.messages for each in rollouts], answers)
        for rollout, reward in zip(rollouts, rewards, strict=True):
            rollout.reward = reward - (0.0 if rollout.ended else self._config.cut_penalty)

    def _compare(self, rollouts: list[Rollout], group: Group) -> None:
        """Advantages. What is to become large is the reward less ``beta`` times the KL divergence; both are here."""
        config = self._config
        if config.method == "grpo":
            paid = np.asarray([each.reward - config.strength * each.kl for each in rollouts], np.float64)
            groups = paid.reshape(-1, config.group_size)
            for rollout, advantage in zip(rollouts, within_groups(groups, config.scale_rewards).ravel(), strict=True):
                rollout.advantages = np.full(len(rollout.answer), advantage)
            return
        for rollout in rollouts:
            rewards = -config.strength * (rollout.old - rollout.reference)
            rewards[-1] += rollout.reward
            rollout.advantages = generalised(rewards, rollout.values, config.discount, config.trace)
            rollout.returns = rollout.advantages + rollout.values
        every = np.concatenate([each.advantages for each in rollouts]) if rollouts else np.zeros(0)
        count, total, squares = _summed([len(every), every.sum(), (every**2).sum()], group)
        mean = total / count
        deviation = max(squares / count - mean**2, 0.0) ** 0.5
        for rollout in rollouts:
            rollout.advantages = (rollout.advantages - mean) / (deviation + 1e-8)

    def _figures(self, rollouts: list[Rollout], group: Group) -> dict[str, float]:
        """Means over all processes' answers."""
        tokens = [len(each.answer) for each in rollouts]
        sums = [
            len(rollouts),
            sum(tokens),
            sum(each.reward for each in rollouts),
            sum(each.kl for each in rollouts),
            sum(not each.ended for each in rollouts),
            sum(each.reward**2 for each in rollouts),
            sum(float(np.abs(each.old - each.drawn).sum()) for each in rollouts if each.drawn is not None),
        ]
        count, length, reward, kl, cut, squares, gap = _summed(sums, group)
        self._tokens = round(length)
        apart = {"engine_gap": gap / length} if self._writer.apart else {}
        for each in apart.values():
            require_near(each, "align")
        return apart | {
            "loss": -(reward - self._config.strength * kl) / count,
            "reward": reward / count,
            "reward_deviation": max(squares / count - (reward / count) ** 2, 0.0) ** 0.5,
            "kl": kl / count,
            "kl_per_token": kl / length,
            "length": length / count,
            "cut": cut / count,
            "distinct": _distinct([each.answer for each in rollouts], group) / count,
        }


def _rows(rollouts: Sequence[Rollout], length: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [rows, length], padded on the right; labels are the answers' tokens."""
    inputs = np.full((len(rollouts), length), pad_id, np.int64)
    labels = np.full((len(rollouts), length), IGNORED, np.int64)
    for number, row in enumerate(rollouts):
        before, written = len(row.prompt.ids), len(row.answer)
        inputs[number, :before] = row.prompt.ids
        inputs[number, before : before + written - 1] = row.answer[:-1]
        labels[number, before - 1 : before + written - 1] = row.answer
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def _summed(values: Sequence[float], group: Group) -> list[float]:
    return group.totals(torch.tensor(values, dtype=torch.float64))


def _distinct(answers: Sequence[Sequence[int]], group: Group) -> int:
    """How many different answers all processes gave."""
    mine = {xxhash.xxh64_intdigest(np.asarray(each, np.int64).tobytes()) for each in answers}
    if group.world == 1:
        return len(mine)
    import torch.distributed as dist

    everyone: list[Any] = [None] * group.world
    dist.all_gather_object(everyone, mine)  # not in checkpoints' group, whose thread is at work
    return len(set().union(*everyone))
