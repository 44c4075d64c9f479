"""GRPO and PPO on problems whose best policy is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.store_local import LocalStore
from pipelines.train.group import Group
from pipelines.train.journal import Journal
from pipelines.train.keeper import Keeper
from pipelines.train.loop import Diverged, train

from .toy import Toy, assert_learned, bandit, config


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("grpo", {}),
        pytest.param("grpo", {"scale_rewards": False, "updates_per_rollout": 2}, marks=pytest.mark.slow),
        ("ppo", {"updates_per_rollout": 2}),
    ],
)
def test_a_bandit_is_played_as_its_closed_form_says(method: str, more: dict[str, Any]) -> None:
    toy = bandit(method, **more)
    reference = toy.policy()
    toy.train(120)
    assert_learned(toy, reference)


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
