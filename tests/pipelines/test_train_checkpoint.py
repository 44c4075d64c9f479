from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cluster.errors import UserError
from cluster.store import Store, open_store
from pipelines.train import checkpoint
from pipelines.train.config import TrainConfig
from pipelines.train.optimizer import make_optimizer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, TrainConfig())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_state_comes_back_and_frozen_weights_are_not_kept(store: Store) -> None:
    model, optimizer = trained(1)
    saved = checkpoint.save(store, "run", 7, model, optimizer)
    other, other_optimizer = trained(2)
    frozen = other[0].weight.clone()  # type: ignore[index]
    assert checkpoint.restore(store, saved, other, other_optimizer) == 7
    assert torch.equal(other[1].weight, model[1].weight)  # type: ignore[index]
    assert torch.equal(other[0].weight, frozen)  # type: ignore[index]
    first, second = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert all(torch.equal(first[n]["exp_avg_sq"], second[n]["exp_avg_sq"]) for n in first)


def test_only_complete_and_sound_checkpoints_count(store: Store, tmp_path: Path) -> None:
    model, optimizer = trained(1)
    checkpoint.save(store, "old", 5, model, optimizer)
    checkpoint.save(store, "new", 10, model, optimizer)
    newest = checkpoint.save(store, "new", 15, model, optimizer)
    store.write("new/step-000000020/state.pt", b"half")  # killed before the marker
    assert [each.step for each in checkpoint.find(store, ["new", "old", "none"])] == [15, 10, 5]

    path = tmp_path / newest.key / checkpoint.STATE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    found, damaged = checkpoint.newest_sound(store, ["new", "old"])
    assert found is not None and found.step == 10
    assert len(damaged) == 1 and "step-000000015" in damaged[0]


def test_the_newest_two_are_kept(store: Store) -> None:
    model, optimizer = trained(1)
    for step in (1, 2, 3, 4):
        checkpoint.save(store, "run", step, model, optimizer)
    assert [each.step for each in checkpoint.find(store, ["run"])] == [4, 3]


def test_another_model_is_refused(store: Store) -> None:
    model, optimizer = trained(1)
    saved = checkpoint.save(store, "run", 1, model, optimizer)
    other = nn.Linear(3, 3)
    with pytest.raises(UserError, match="of another model"):
        checkpoint.restore(store, saved, other, make_optimizer(other, TrainConfig()))
