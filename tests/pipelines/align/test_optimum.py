"""GRPO and PPO on problems whose best policy is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.store_local import LocalStore
from pipelines.align.actor import Actor, add_value_head
from pipelines.align.config import AlignConfig
from pipelines.align.guard import watch
from pipelines.align.rollouts import Prompt, RolloutSamples
from pipelines.finetune.examples.records import Message, Messages
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.train.group import Group
from pipelines.train.journal import Journal
from pipelines.train.keeper import Keeper
from pipelines.train.loop import Diverged, train

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
    """A reward of the answer's tokens, and the rest of what a task is."""

    def __init__(self, config: AlignConfig, reward: Any) -> None:
        self.config, self._reward = config, reward
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
        config = self.config
        actor = Actor(
            model,
            temperature=config.temperature,
            clip=config.clip,
            value_clip=config.value_clip,
            value_coefficient=config.value_coefficient,
        )
        for samples in (self.training, self.validation):
            samples.connect(actor, self)
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


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("grpo", {}),
        pytest.param("grpo", {"scale_rewards": False, "updates_per_rollout": 2}, marks=pytest.mark.slow),
        ("ppo", {"updates_per_rollout": 2}),
    ],
)
def test_a_bandit_is_played_as_its_closed_form_says(method: str, more: dict[str, Any]) -> None:
    """What maximises E[r] - beta KL(policy, reference) is the reference times exp(r / beta), normalised."""
    beta = 0.5
    toy = Toy(config(method, answer_tokens=1, beta=beta, **more), lambda context, answer: WORTH[context, answer[0]])
    reference = toy.policy()
    worth = WORTH[list(CONTEXTS)]
    best = reference * np.exp(worth / beta)
    optimum = beta * np.log(best.sum(1)).mean()
    best /= best.sum(1, keepdims=True)

    def value(policy: np.ndarray[Any, Any]) -> float:
        return float((policy * (worth - beta * np.log(policy / reference))).sum(1).mean())

    assert value(best) == pytest.approx(optimum)
    assert value(reference) < optimum - 0.3  # there is something to learn
    toy.train(120)
    found = toy.policy()
    assert value(found) > optimum - 0.02
    assert np.abs(found - best).sum(1).max() / 2 < 0.12 < np.abs(reference - best).sum(1).max() / 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_token_is_said_as_often_as_possible(method: str) -> None:
    toy = Toy(
        config(method, answer_tokens=6, beta=0.0, updates_per_rollout=2), lambda context, answer: answer.count(5) / 6
    )
    around = toy.train(120)
    rewards = around.curve("reward")
    assert rewards[0] < 0.3
    assert rewards[-1] > 0.97
    checks = around.curve("reward", "validation")
    assert checks[-1] > 0.97
    assert around.curve("loss", "validation")[-1] == pytest.approx(-checks[-1])
    assert around.curve("entropy")[-1] < 0.5 * around.curve("entropy")[0]


def test_a_reward_that_pays_for_one_answer_to_everything_is_stopped_with_the_reason() -> None:
    settings = config(
        "grpo",
        answer_tokens=4,
        beta=0.0,
        updates_per_rollout=2,
        max_rollbacks=0,
        guard={"max_kl_per_token": 0.5, "patience_steps": 4},
    )
    toy = Toy(settings, lambda context, answer: answer.count(5))
    told = r"the reward collapses: for 4 steps the model was over 0\.5 nats a token"
    with pytest.raises(Diverged, match=told) as raised:
        toy.train(200)
    assert raised.value.next_step == "raise align.beta"


def test_training_goes_back_and_draws_other_answers(tmp_path: Path) -> None:
    """One function of the reward is a hole; the checkpoint before it was found is where training goes on."""
    settings = config(
        "grpo",
        answer_tokens=4,
        beta=0.0,
        updates_per_rollout=2,
        max_rollbacks=1,
        checkpoint_every_steps=4,
        guard={"max_kl_per_token": 0.5, "patience_steps": 4},
    )
    toy = Toy(settings, lambda context, answer: answer.count(5))
    store = LocalStore(tmp_path)
    journal = Journal(store, "journal")
    keeper = Keeper(store, "checkpoints", (), Group(), journal, 2)
    with pytest.raises(Diverged, match="after going back 1 times"):
        train(toy.model, toy.training, toy.validation, 200, settings, Group(), keeper, "align", own=toy)
    journal.close()
    lines = [json.loads(line) for item in store.files("journal/") for line in store.read(item.key).splitlines()]
    (back,) = [each["step"] for each in lines if each["kind"] == "rollback"]
    assert back % 2 == 0
    assert back > 0
    first, second = [each["reward"] for each in lines if each["kind"] == "train" and each["step"] == back + 1]
    assert first != second
    (told,) = [each["text"] for each in lines if each["kind"] == "event"]
    assert "the reward collapses" in told
    assert f"back to the checkpoint at step {back}" in told


def test_each_figure_is_there_at_each_step() -> None:
    around = Toy(config("ppo", answer_tokens=2), lambda context, answer: answer[0]).train(3)
    names = {"loss", "reward", "kl", "kl_per_token", "length", "entropy", "distinct", "cut", "clipped", "value_loss"}
    for record in around.records:
        if record["kind"] == "train":
            assert names <= record.keys()
    assert around.curve("kl")[0] == pytest.approx(0.0, abs=1e-5)
    assert around.curve("length") == [2.0, 2.0, 2.0]
