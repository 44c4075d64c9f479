"""What validation decides in a whole run, in this process: the best checkpoint is kept, overfitting is told."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.store import Store
from pipelines.train import checkpoint
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.journal import Follower, Journal
from pipelines.train.keeper import Keeper
from pipelines.train.loop import Finished, train
from tests.pipelines.rank_pool import FixedSamples, tiny

STEPS = 24


def run(store: Store, **settings: Any) -> tuple[Finished, list[dict[str, Any]]]:
    """Learn random sequences by heart: what validation has never seen becomes less and less likely."""
    config = TrainConfig(
        **{
            "batch_sequences": 8,
            "learning_rate": 3e-2,
            "validation_every_steps": 2,
            "validation_sequences": 9,
            "checkpoint_every_steps": 10,
            "workers": 1,
            "seed": 5,
            **settings,
        }
    )
    journal = Journal(store, "journal")
    keeper = Keeper(store, "checkpoints", (), Group(), journal, config.keep_checkpoints)
    model = tiny("llama", layers=1)
    finished, _ = train(model, FixedSamples(40, 1), FixedSamples(9, 2), STEPS, config, Group(), keeper, "here")
    journal.close()
    return finished, Follower(store, "journal").poll()


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_checkpoint_is_kept_where_asked_for_and_overfitting_is_told_once(
    store: Store, keep_best: bool
) -> None:
    finished, records = run(store, keep_best=keep_best)
    validation = {each["step"]: each["loss"] for each in records if each["kind"] == "validation" and each["step"]}
    best = min(validation, key=lambda step: validation[step])
    assert sorted(validation) == list(range(2, STEPS + 1, 2)) and best < 20
    kept = {each.step: each.memory[checkpoint.VALIDATED] for each in checkpoint.find(store, ["checkpoints"])}
    assert kept == {step: validation[step] for step in {20, STEPS} | ({best} if keep_best else set())}
    assert finished.steps == finished.chosen_step == STEPS  # the last weights are the result all the same
    told = [each for each in records if each["kind"] == "event" and each["text"].startswith("overfitting")]
    assert len(told) == 1
    assert f"{validation[best]:.4g} at step {best}, while training loss fell from" in told[0]["text"]
