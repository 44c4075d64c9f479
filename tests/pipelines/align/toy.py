"""Problems whose best policy is known, on a model with eight tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.align.actor import Actor, add_value_head
from pipelines.align.answer_writers import AnswerWriter
from pipelines.align.config import AlignConfig
from pipelines.align.guard import watch
from pipelines.align.rollouts import Prompt, RolloutSamples
from pipelines.finetune.examples.records import Message, Messages
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.train.group import Group
from pipelines.train.loop import train

VOCABULARY = 8
CONTEXTS = (3, 6)
OFF = {"max_kl_per_token": 1e9, "min_distinct": 0.0}


class Surroundings:
    """Takes records, keeps no checkpoints."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def record(self, values: dict[str, Any]) -> None:
        self.records.append(values)

    def save(self, *ignored: Any) -> None: ...
    def tell(self, step: int) -> None: ...
    def wait(self) -> None: ...
    def finish(self) -> None: ...
    def restore(self, *ignored: Any) -> None: ...

    def curve(self, name: str, kind: str = "train") -> list[float]:
        return [each[name] for each in self.records if each["kind"] == kind]


class Toy:
    """A reward of the answer's tokens, and the rest of what a task is; ``writer`` makes one of the actor."""

    def __init__(self, config: AlignConfig, reward: Any, writer: Callable[[Actor], AnswerWriter] | None = None) -> None:
        self.config, self._reward, self.writer = config, reward, writer
        torch.manual_seed(1)
        shape = Shape(hidden=32, layers=1, heads=1, kv_heads=1, intermediate=48)
        self.model = build_llama(shape, vocab_size=VOCABULARY, max_positions=16, bos_id=0, eos_id=1, pad_id=2)
        with torch.no_grad():
            self.model.get_output_embeddings().weight *= 8  # a reference that is not uniform
        if config.method == "ppo":
            add_value_head(self.model)
        prompts = [Prompt((Message("user", str(token)),), (token,)) for token in CONTEXTS]
        self.training, self.validation = (
            RolloutSamples(
                prompts,
                decode=lambda ids: " ".join(map(str, ids)),
                stops=() if config.answer_tokens > 1 else range(VOCABULARY),
                pad_id=2,
                config=config,
                seed=seed,
            )
            for seed in (config.seed, 99)
        )

    def scores(self, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        pairs = zip(prompts, answers, strict=True)
        return [
            float(self._reward(int(asked[0].content), [int(each) for each in told.split()])) for asked, told in pairs
        ]

    def objective(self, model: Any, group: Group) -> Any:
        actor = Actor.of(model, self.config)
        for samples in (self.training, self.validation):
            samples.connect(actor, self, self.writer(actor) if self.writer else None)
        return actor

    advice = "raise align.beta"

    def watch(self, figures: Any, memory: dict[str, Any]) -> str | None:
        return watch(figures, memory, self.config.guard)

    def train(self, steps: int) -> Surroundings:
        around = Surroundings()
        train(self.model, self.training, self.validation, steps, self.config, Group(), around, "align", own=self)
        return around

    def policy(self) -> np.ndarray[Any, Any]:
        """Probability of each first token in each context."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([[token] for token in CONTEXTS])).logits[:, -1]
        return torch.softmax(logits.double(), -1).numpy()


def config(method: str, **more: Any) -> AlignConfig:
    values: dict[str, Any] = {
        "method": method,
        "reward": "toy:reward",
        "weights": "full",
        "batch_sequences": 96 if method == "ppo" else 8,
        "answers_per_prompt": 1 if method == "ppo" else 16,
        "learning_rate": 1e-2,
        "final_learning_rate_fraction": 0.0,
        "workers": 1,
        "guard": OFF,
        "validation_sequences": 2,
    }
    return AlignConfig(**values | more)


WORTH = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY))


BETA = 0.5


def bandit(method: str, writer: Callable[[Actor], AnswerWriter] | None = None, **more: Any) -> Toy:
    """Answers of one token, each worth its own."""
    settings = config(method, answer_tokens=1, beta=BETA, **more)
    return Toy(settings, lambda context, answer: WORTH[context, answer[0]], writer)


def assert_learned(toy: Toy, reference: np.ndarray[Any, Any]) -> None:
    """What maximises E[r] - beta KL(policy, reference) is the reference times exp(r / beta), normalised."""
    worth = WORTH[list(CONTEXTS)]
    best = reference * np.exp(worth / BETA)
    optimum = BETA * np.log(best.sum(1)).mean()
    best /= best.sum(1, keepdims=True)

    def value(policy: np.ndarray[Any, Any]) -> float:
        return float((policy * (worth - BETA * np.log(policy / reference))).sum(1).mean())

    assert value(best) == pytest.approx(optimum)
    assert value(reference) < optimum - 0.3  # there is something to learn
    found = toy.policy()
    assert value(found) > optimum - 0.02
    assert np.abs(found - best).sum(1).max() / 2 < 0.12 < np.abs(reference - best).sum(1).max() / 2
