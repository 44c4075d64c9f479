"""Values that change in mid-training: against the same done by hand, and what cannot be."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.config import identity_fields, parse_document, validate
from cluster.errors import UserError
from pipelines.align.config import AlignConfig
from pipelines.pretrain import PretrainConfig, resolve
from pipelines.train.changes import ChangeConfig, Timetable, check_changes, plain_changes
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.loop import Finished, train
from pipelines.train.optimizer import make_optimizer, undecayed
from pipelines.train.order import sample_indices
from pipelines.train.schedule import learning_rate
from tests.pipelines.test_train_loop import VOCABULARY, FixedSamples, Surroundings, llama

STEPS = 12
LATER = {"learning_rate": 9e-3, "weight_decay": 0.9, "gradient_clip": 0.05, "z_loss": 0.02}
SETTINGS: dict[str, Any] = {
    "batch_sequences": 6,
    "learning_rate": 3e-3,
    "seed": 5,
    "validation_sequences": 7,
    "checkpoint_every_steps": 3,
    "workers": 1,
}


def config(*changes: dict[str, float], **settings: Any) -> TrainConfig:
    return TrainConfig(**SETTINGS | settings, changes=tuple(ChangeConfig(**each) for each in changes))


def run(chosen: TrainConfig, around: Surroundings, model: nn.Module | None = None) -> tuple[Finished, nn.Module]:
    model = llama() if model is None else model
    training, validation = FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)
    return train(model, training, validation, STEPS, chosen, Group(), around, "pretrain")[0], model


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(("optimizer", "key"), [*(("adamw", key) for key in (*LATER, "all")), ("muon", "all")])
def test_a_change_is_what_one_does_by_hand(optimizer: str, key: str) -> None:
    """Train to step 6 with the first values, take its checkpoint, and go on with the second ones: bit for bit."""
    values = LATER if key == "all" else {key: LATER[key]}
    changed = Surroundings()
    end, model = run(config({"at_fraction": 0.5, **values}, optimizer=optimizer), changed)

    by_hand = Surroundings(stop_at=7)
    with pytest.raises(KeyboardInterrupt):
        run(config(optimizer=optimizer), by_hand)
    assert max(by_hand.saved) == 6
    by_hand.stop_at = None
    again, other = run(config(optimizer=optimizer, **values), by_hand, llama(seed=99))
    assert again.resumed_at == 6
    assert same(model, other)
    assert changed.losses() == by_hand.losses()
    assert end.validation_loss == again.validation_loss
    unchanged = Surroundings()
    _, plain = run(config(optimizer=optimizer), unchanged)
    assert not same(model, plain), "it made no difference"
    assert [changed.losses()[step] for step in range(1, 7)] == [unchanged.losses()[step] for step in range(1, 7)]


def test_losses_are_those_of_a_plain_loop() -> None:
    """Two changes against torch alone: its optimiser, clipping and cross-entropy, with the values of each step."""
    around = Surroundings()
    chosen = config({"at_fraction": 0.25, **LATER}, {"at_fraction": 0.75, "learning_rate": 1e-3, "weight_decay": 0.0})
    run(chosen, around)
    first = {"learning_rate": 3e-3, "weight_decay": 0.1, "gradient_clip": 1.0, "z_loss": 0.0}
    last = LATER | {"learning_rate": 1e-3, "weight_decay": 0.0}

    plain, training = llama(), FixedSamples(40, 12, 1)
    matrices = [p for n, p in plain.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in plain.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95))
    losses = {}
    for step in range(STEPS):
        values = first if step < 3 else LATER if step < 9 else last
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config(learning_rate=values["learning_rate"]), step, STEPS)
        optimizer.param_groups[0]["weight_decay"] = values["weight_decay"]
        chosen_samples = sample_indices(step * 6, 6, 40, 5)
        logits = plain(input_ids=training.tokens[chosen_samples, :-1]).logits.reshape(-1, VOCABULARY)
        labels = training.labels[chosen_samples].reshape(-1)
        entropy = functional.cross_entropy(logits, labels)
        drift = torch.logsumexp(logits, -1)[labels >= 0].square().mean()
        optimizer.zero_grad()
        (entropy + values["z_loss"] * drift).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), values["gradient_clip"])
        optimizer.step()
        losses[step + 1] = entropy.item()
    assert around.losses() == pytest.approx(losses, abs=1e-5)
    rates = {each["step"]: each["learning_rate"] for each in around.records if each["kind"] == "train"}
    assert rates[3] < 3.1e-3 < rates[4]


@pytest.mark.parametrize("stop_at", [6, 7, 11])
def test_an_interrupted_run_continues_exactly(stop_at: int) -> None:
    """Before, at and after the change, which is told once."""
    chosen = config({"at_fraction": 0.5, **LATER}, {"at_fraction": 0.8, "weight_decay": 0.0})
    whole = Surroundings()
    end, model = run(chosen, whole)
    cut = Surroundings(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, cut)
    cut.stop_at = None
    resumed, other = run(chosen, cut, llama(seed=99))
    assert resumed.resumed_at == (stop_at - 1) // 3 * 3
    assert same(model, other)
    assert cut.losses() == whole.losses()
    assert resumed.validation_loss == end.validation_loss


def test_the_journal_tells_each_change_once() -> None:
    from pipelines.train.journal import settle

    chosen = config({"at_fraction": 0.5, "learning_rate": 0.009, "weight_decay": 0}, {"at_fraction": 0.8, "z_loss": 1})
    for stop_at in (7, 8):
        around = Surroundings(stop_at=stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, around)
        around.stop_at = None
        run(chosen, around)
        told = [(each["step"], each["text"]) for each in settle(around.records) if each["kind"] == "event"]
        assert told == [
            (7, "from this step on learning_rate 0.003 becomes 0.009, weight_decay 0.1 becomes 0"),
            (11, "from this step on z_loss 0 becomes 1"),
        ]


def test_what_does_not_decay_does_not_begin_to() -> None:
    model = llama()
    optimizer = make_optimizer(model, config(weight_decay=0.0))
    optimizer.decay(0.5)
    parts = {id(part): group["weight_decay"] for group in optimizer.groups for part in group["params"]}
    kept = undecayed(model)
    for name, parameter in model.named_parameters():
        assert parts[id(parameter)] == (0.0 if name in kept else 0.5)


def test_values_of_a_step() -> None:
    timetable = Timetable(config({"at_fraction": 0.3, "z_loss": 1.0}, {"at_fraction": 0.5, "weight_decay": 2}), 7, "x")
    found = [(timetable.at(step).z_loss, timetable.at(step).weight_decay) for step in range(7)]
    # By hand: 0.3 of 7 steps are 2, half of them 4 (3.5 to the even one).
    assert found == [(0.0, 0.1)] * 2 + [(1.0, 0.1)] * 2 + [(1.0, 2.0)] * 3
    assert [step for step in range(8) if timetable.news(step)] == [2, 4]
    assert timetable.at(0) == config({"at_fraction": 0.3, "z_loss": 1.0}, {"at_fraction": 0.5, "weight_decay": 2})


def pretrain(text: str) -> PretrainConfig:
    return validate(PretrainConfig, parse_document(text, "recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{at_fraction: 0.5}]", "recipe.yaml:2: changes.0: changes nothing: give at least one of learning_rate, wei"),
        ("[{at_fraction: 0, z_loss: 1}]", "changes.0.at_fraction: .*greater than 0"),
        ("[{at_fraction: 1, z_loss: 1}]", "changes.0.at_fraction: .*less than 1"),
        ("[{z_loss: 1}]", "changes.0.at_fraction: field required"),
        ("[{at_fraction: 0.5, learning_rate: 0}]", "changes.0.learning_rate: .*greater than 0"),
        ("[{at_fraction: 0.5, learning_rat: 1}]", "did you mean learning_rate"),
        ("[{at_fraction: 0.5, batch_sequences: 1}]", "unknown key"),
        (
            "[{at_fraction: 0.5, z_loss: 1}, {at_fraction: 0.5, z_loss: 2}]",
            "recipe.yaml:2: changes: changes at 0.5 and 0.5 are not in order",
        ),
        ("[{at_fraction: 0.5, z_loss: 1}, {at_fraction: 0.2, z_loss: 2}]", "changes at 0.5 and 0.2 are not in order"),
        ("[{at_fraction: 0.01, z_loss: 1}]\nsteps: 20", "changes at 0 and 0.01 of 20 steps leave no step between"),
        ("[{at_fraction: 0.99, z_loss: 1}]\nsteps: 20", "changes at 0.99 and 1 of 20 steps leave no step between"),
    ],
)
def test_changes_that_cannot_be_are_told_with_their_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(f"batch_sequences: 4\nchanges: {text}")


def test_a_training_that_turns_out_too_short_says_so() -> None:
    chosen = config({"at_fraction": 0.01, "z_loss": 1.0})
    with pytest.raises(UserError, match=r"changes at 0 and 0.01 of 12 steps leave no step between") as caught:
        run(chosen, Surroundings())
    assert caught.value.where == "pretrain.changes"
    assert caught.value.next_step == "take one away, or train for longer"


def test_fractions_in_order_that_have_steps_between_them_are_accepted() -> None:
    shares = [number / 10 for number in range(1, 10)]
    changes = [ChangeConfig(at_fraction=share, z_loss=0.0) for share in shares]
    check_changes(changes, 10)
    assert all(round(one * 10) < round(other * 10) for one, other in pairwise(shares))
    with pytest.raises(ValueError, match="no step between"):
        check_changes(changes, 9)


def test_the_identity_has_them_where_there_are_any() -> None:
    """A recipe without them is what it was before there was such a key."""
    without = pretrain("steps: 20")
    assert "changes" not in identity_fields(without) | resolve(without)
    with_one = resolve(pretrain("steps: 20\nchanges: [{at_fraction: 0.5, weight_decay: 0, z_loss: null}]"))
    assert with_one["changes"] == [{"at_fraction": 0.5, "weight_decay": 0.0}]
    assert resolve(pretrain("steps: 20\nchanges: []")) == resolve(without)
    again = PretrainConfig(steps=20, changes=with_one["changes"])
    assert plain_changes(again.changes) == with_one["changes"]


def test_align_has_no_cross_entropy_to_add_a_z_loss_to() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        AlignConfig(changes=[{"at_fraction": 0.5, "z_loss": 1.0}])
    assert AlignConfig(changes=[{"at_fraction": 0.5, "learning_rate": 1e-5}]).changes


@pytest.mark.parametrize("share", [0.25, 1 / 3])
def test_a_run_that_pauses_and_goes_on_changed_is_one_with_the_change(share: float) -> None:
    """On a step where a checkpoint is due, and on another."""
    with_change = config({"at_fraction": share, **LATER})
    alone = Surroundings()
    end, model = run(with_change, alone)
    parted = Surroundings()
    training, validation = FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)
    paused, _ = train(llama(), training, validation, STEPS, config(), Group(), parted, "pretrain", until=share)
    assert paused.paused
    assert paused.steps == max(parted.saved) == max(parted.losses()) == round(share * STEPS)
    loss = [each["loss"] for each in parted.records if each["kind"] == "validation"][-1]
    assert paused.validation_loss == loss
    resumed, other = run(with_change, parted, llama(seed=99))
    assert not resumed.paused
    assert resumed.resumed_at == paused.steps
    assert same(model, other)
    assert parted.losses() == alone.losses()
    assert resumed.validation_loss == end.validation_loss


def test_a_run_too_short_to_pause_says_so() -> None:
    data = FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)
    with pytest.raises(UserError, match="3 steps are too few to pause after 10% of them") as caught:
        train(llama(), *data, 3, config(), Group(), Surroundings(), "pretrain", until=0.1)
    assert "interval_fraction" in caught.value.next_step


def test_a_run_that_pauses_leaves_later_checkpoints_alone() -> None:
    """An earlier try may have come further: what it has there says nothing of the step of the pause."""
    around = Surroundings()
    run(config(), around)
    training, validation = FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)
    again, _ = train(llama(), training, validation, STEPS, config(), Group(), around, "pretrain", until=0.5)
    assert (again.resumed_at, again.steps, again.paused) == (6, 6, True)
    whole, _ = train(llama(), training, validation, STEPS, config(), Group(), around, "pretrain", until=None)
    assert (whole.resumed_at, whole.steps, whole.paused) == (12, 12, False)
