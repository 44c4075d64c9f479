"""The loop against a plain torch loop written out here, and the parts that make it independent of the layout."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.errors import UserError
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.train.batches import accumulate, evaluate, split, validation_indices
from pipelines.train.checkpoint import Checkpoint, State
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.layout import micro_batches_of
from pipelines.train.loop import Finished
from pipelines.train.loop import train as train_run
from pipelines.train.optimizer import make_optimizer, undecayed, unorthogonal
from pipelines.train.order import Indices, sample_indices
from pipelines.train.parallel import arrange
from pipelines.train.schedule import learning_rate
from pipelines.train.task import IGNORED, Batch

VOCABULARY = 50


class FixedSamples:
    """Random sequences of which the last ones carry less loss, as padded ones do."""

    def __init__(self, count: int, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, VOCABULARY, (count, length + 1), generator=generator)
        self.labels = self.tokens[:, 1:].clone()
        for row in range(count):
            self.labels[row, : row % length] = IGNORED

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Indices) -> Batch:
        indices = indices % len(self)
        return Batch(self.tokens[indices, :-1], self.labels[indices])

    def targets(self, indices: Indices) -> int:
        return int((self.labels[indices % len(self)] != IGNORED).sum())


def llama(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48, dropout=dropout)
    return build_llama(shape, vocab_size=VOCABULARY, max_positions=16, bos_id=0, eos_id=1, pad_id=2)


class Surroundings:
    """What the loop tells, remembered; checkpoints are held in memory."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.saved: dict[int, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {}
        self.stop_at = stop_at

    def record(self, values: dict[str, Any]) -> None:
        self.records.append(values)
        if values["kind"] == "train" and values["step"] == self.stop_at:
            raise KeyboardInterrupt

    def save(self, step: int, state: State, memory: dict[str, Any], best: int | None) -> None:
        tensors = {name: tensor.clone() for name, tensor in state.items()}
        self.saved[step] = tensors, json.loads(json.dumps(memory))

    def tell(self, step: int) -> None:
        pass

    def wait(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def restore(self, state: State, below: int | None = None) -> Checkpoint | None:
        steps = [step for step in self.saved if below is None or step < below]
        if not steps:
            return None
        tensors, memory = self.saved[max(steps)]
        assert tensors.keys() == state.keys()
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
        return Checkpoint("", max(steps), {}, memory)

    def losses(self) -> dict[int, float]:
        return {each["step"]: each["loss"] for each in self.records if each["kind"] == "train"}


def train(model: nn.Module, *rest: Any) -> Finished:
    return train_run(model, *rest)[0]


CONFIG = TrainConfig(
    batch_sequences=6, learning_rate=3e-3, seed=5, validation_sequences=7, checkpoint_every_steps=4, workers=1
)


def test_losses_are_those_of_a_plain_loop() -> None:
    """The oracle: mean cross-entropy over a batch, clip, AdamW with two groups; nothing shared but order and rate."""
    training, validation = FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)
    around = Surroundings()
    model = llama()
    finished = train(model, training, validation, 12, CONFIG, Group(), around, "pretrain")

    plain = llama()
    matrices = [p for n, p in plain.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in plain.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    losses = {}
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(CONFIG, step, 12)
        chosen = sample_indices(step * 6, 6, 40, 5)
        logits = plain(input_ids=training.tokens[chosen, :-1]).logits
        loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY), training.labels[chosen].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        losses[step + 1] = loss.item()
    assert around.losses() == pytest.approx(losses, abs=1e-5)
    assert finished.steps == 12
    # The model was not left in evaluation mode, and learned something.
    assert model.training
    assert around.losses()[12] < around.losses()[1]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_continues_exactly(dropout: float) -> None:
    training, validation = FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)
    whole, plain = Surroundings(), Surroundings()
    end = train(llama(dropout=dropout), training, validation, 12, CONFIG, Group(), whole, "pretrain")
    train(llama(), training, validation, 2, CONFIG, Group(), plain, "pretrain")
    assert (whole.losses()[1] == plain.losses()[1]) == (not dropout)  # it is drawn, and drawn again

    cut = Surroundings(stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        train(llama(dropout=dropout), training, validation, 12, CONFIG, Group(), cut, "pretrain")
    assert sorted(cut.saved) == [4, 8]
    cut.stop_at = None
    resumed = train(llama(seed=99, dropout=dropout), training, validation, 12, CONFIG, Group(), cut, "pretrain")
    assert resumed.resumed_at == 8
    assert cut.losses() == whole.losses()
    assert resumed.validation_loss == end.validation_loss


@pytest.mark.parametrize("micro", [1, 2, 4, 5])
def test_gradients_do_not_depend_on_micro_batches(micro: int) -> None:
    samples = FixedSamples(40, 12, 1)
    indices = np.arange(3, 10)
    gradients = []
    for config in (CONFIG, CONFIG.model_copy(update={"micro_batch_sequences": micro})):
        model = llama()
        measured, targets = accumulate(arrange(model, config, Group()), samples, indices, config)
        gradients.append((measured.loss, targets, [parameter.grad for parameter in model.parameters()]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    assert gradients[0][1] == gradients[1][1] == samples.targets(indices)
    for first, second in zip(gradients[0][2], gradients[1][2], strict=True):
        assert torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_gradients_averaged_over_the_workers_are_those_of_the_mean_loss(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What DDP makes of the ranks' gradients (their mean), against torch's own mean over the whole batch."""
    samples = FixedSamples(40, 12, 1)
    indices = np.arange(3, 10)
    gradients = []
    for rank in range(world):
        model = llama()
        runner = arrange(model, CONFIG, Group())
        group = Group(rank, world)
        monkeypatch.setattr(group, "sum", lambda value: value)
        runner.group = group
        accumulate(runner, samples, indices, CONFIG)
        gradients.append([parameter.grad for parameter in model.parameters()])
    plain = llama()
    logits = plain(input_ids=samples.tokens[indices, :-1]).logits
    functional.cross_entropy(logits.reshape(-1, VOCABULARY), samples.labels[indices].reshape(-1)).backward()
    for parameter, *parts in zip(plain.parameters(), *gradients, strict=True):
        assert torch.allclose(sum(parts) / world, parameter.grad, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("micro", [None, 1, 2])
def test_shares_cover_a_batch_once_in_equally_many_parts(world: int, micro: int | None) -> None:
    indices = np.arange(100, 111)
    parts = micro_batches_of(-(-11 // world), micro, 1)
    shares = [split(indices, world, rank, parts) for rank in range(world)]
    assert sorted(int(i) for share in shares for part in share for i in part) == indices.tolist()
    assert len({len(share) for share in shares}) == 1
    if micro:
        assert max(len(part) for share in shares for part in share) <= micro


def test_validation_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = FixedSamples(20, 12, 3)
    indices = validation_indices(samples, CONFIG)
    assert len(set(indices.tolist())) == 7
    runner = arrange(llama(), CONFIG, Group())
    alone = evaluate(runner, samples, indices, CONFIG).loss
    parts = []
    for rank in range(3):
        runner.group = Group(rank, 3)
        monkeypatch.setattr(runner.group, "sum", lambda value: value)
        parts.append(evaluate(runner, samples, indices, CONFIG).loss)
    assert sum(parts) == pytest.approx(alone, abs=1e-6)


def test_a_loss_that_is_no_number_stops_the_run_before_it_does_harm() -> None:
    model = llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="the loss became nan at step 1 of 3") as raised:
        train(model, FixedSamples(8, 12, 1), FixedSamples(8, 12, 2), 3, CONFIG, Group(), Surroundings(), "here")
    assert "learning_rate" in raised.value.next_step
    assert raised.value.where == "here"


def test_weight_decay_is_for_matrices_only() -> None:
    model = llama()
    names = {name for name, _ in model.named_parameters()}
    # The tied output goes by both names; the optimiser has the parameter under the first.
    assert undecayed(model) & names == {name for name in names if "norm" in name or "embed_tokens" in name}
    decayed, kept = make_optimizer(model, CONFIG).groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)

    untied = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5))
    untied[0].requires_grad_(False)
    groups = make_optimizer(untied, CONFIG).groups
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_muon_takes_the_layers_matrices_and_leaves_the_rest_to_adamw() -> None:
    model = llama()
    left = unorthogonal(model)
    assert {name for name, _ in model.named_parameters()} - left == {
        name for name, _ in model.named_parameters() if "proj" in name
    }
    optimizer = make_optimizer(model, CONFIG.model_copy(update={"optimizer": "muon"}))
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()  # type: ignore[union-attr, operator, index]
    accumulate(arrange(model, CONFIG, Group()), FixedSamples(8, 12, 1), np.arange(6), CONFIG)
    optimizer.step(0.01)
    moved = before * (1 - 0.01 * 0.1) - model.model.layers[0].mlp.up_proj.weight  # type: ignore[union-attr, operator, index]
    singular = torch.linalg.svdvals(moved) / (0.2 * 48**0.5 * 0.01)
    # Newton-Schulz brings all singular values near one (Jordan et al. 2024 give 0.7 to 1.2): no direction dominates.
    assert singular.min() > 0.5 and singular.max() < 1.5
    keys = {name.rpartition("/")[2] for name in optimizer.state()}
    assert keys == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}


def test_decay_is_decoupled() -> None:
    """With no gradient a matrix shrinks by lr * decay and a norm stays (AdamW, not Adam with L2)."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.LayerNorm(3))
    optimizer = make_optimizer(model, TrainConfig(learning_rate=0.5, weight_decay=0.1))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.5)
    after = list(model.parameters())
    assert torch.allclose(after[0], before[0] * (1 - 0.5 * 0.1))
    assert torch.equal(after[1], before[1])
