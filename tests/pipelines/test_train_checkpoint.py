from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.errors import InfraError, UserError
from cluster.store import Store
from pipelines.train import checkpoint, saver
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.optimizer import make_optimizer
from pipelines.train.saver import Saver


def trained(seed: int) -> dict[str, torch.Tensor]:
    """The state of a small model after a step; its first layer is frozen."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, TrainConfig())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step(1e-3)
    weights = {f"model/{name}": each.detach() for name, each in model.named_parameters() if each.requires_grad}
    return weights | {f"optimizer/{name}": value for name, value in optimizer.state().items()}


def save(store: Store, prefix: str, step: int, state: dict[str, torch.Tensor], **more: Any) -> Saver:
    made = Saver(store, prefix, Group(), keep=2, patience_s=0.0)
    made.save(step, state, {"skips": [], "step": step}, **more)
    made.finish()
    return made


def test_a_state_comes_back_bit_by_bit(any_store: Store) -> None:
    state = trained(1)
    assert "model/0.weight" not in state  # frozen: it is not kept
    assert {name.rpartition("/")[2] for name in state if name.startswith("optimizer/")} == {
        "exp_avg",
        "exp_avg_sq",
        "step",
    }
    save(any_store, "run", 7, state)
    other = trained(2)
    found, damaged = checkpoint.newest_sound(any_store, ["run"])
    assert found is not None and found.step == 7 and found.memory["step"] == 7 and not damaged
    checkpoint.load(any_store, found, other)
    assert all(torch.equal(other[name], state[name]) for name in state)


def test_what_changes_after_a_save_began_is_not_in_it(store: Store) -> None:
    state = trained(1)
    before = {name: tensor.clone() for name, tensor in state.items()}
    made = Saver(store, "run", Group(), keep=2)
    made.save(1, state, {})
    for tensor in state.values():
        tensor.add_(1.0)
    made.finish()
    found, _ = checkpoint.newest_sound(store, ["run"])
    assert found is not None
    checkpoint.load(store, found, state)
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_only_complete_and_sound_checkpoints_count(any_store: Store) -> None:
    state = trained(1)
    save(any_store, "old", 5, state)
    save(any_store, "new", 10, state)
    save(any_store, "new", 15, state)
    any_store.write("new/step-000000020/__0_0.distcp", b"half")  # killed before the marker
    assert [each.step for each in checkpoint.find(any_store, ["new", "old", "none"])] == [15, 10, 5]

    key = "new/step-000000015/__0_0.distcp"
    data = bytearray(any_store.read(key))
    data[len(data) // 2] ^= 1
    any_store.write(key, bytes(data))
    found, damaged = checkpoint.newest_sound(any_store, ["new", "old"])
    assert found is not None and found.step == 10
    assert len(damaged) == 2 and "step-000000015 is damaged" in damaged[0]
    assert "step-000000020 was not written to its end (it has no sound complete.json)" in damaged[1]
    any_store.write("new/step-000000010/complete.json", b'{"step": 10')  # a disk that lost the end of it
    found, damaged = checkpoint.newest_sound(any_store, ["new", "old"], below=20)
    assert found is not None and found.step == 5
    assert [each.partition("step-")[2][:13] for each in damaged] == ["000000015 is ", "000000010 was"]
    save(any_store, "new", 10, state)
    any_store.delete("new/step-000000010/.metadata")
    found, damaged = checkpoint.newest_sound(any_store, ["new", "old"])
    assert found is not None and found.step == 5 and ".metadata is missing" in damaged[1]
    assert checkpoint.newest_sound(any_store, ["new", "old"], below=5) == (None, [])


def test_the_newest_two_are_kept_and_the_best(store: Store) -> None:
    state = trained(1)
    for step in (1, 2, 3, 4):
        save(store, "run", step, state, best=2)
    assert [each.step for each in checkpoint.find(store, ["run"])] == [4, 3, 2]
    save(store, "run", 5, state, best=5)
    assert [each.step for each in checkpoint.find(store, ["run"])] == [5, 4]
    assert store.folders("run") == ["step-000000004", "step-000000005"]


def test_another_model_is_refused(store: Store) -> None:
    state = trained(1)
    save(store, "run", 1, state)
    (found,) = checkpoint.find(store, ["run"])
    with pytest.raises(
        UserError, match=r"of another model or optimiser: model/1.weight is \(2, 4\) there and \(3, 3\)"
    ):
        checkpoint.load(store, found, state | {"model/1.weight": torch.zeros(3, 3)})
    with pytest.raises(UserError, match=r"it has no model/2\.weight"):
        checkpoint.load(store, found, {"model/2.weight": torch.zeros(3, 3)})
    fewer = {name: each for name, each in state.items() if name != "model/1.bias"}
    with pytest.raises(UserError, match=r"of another model or optimiser: it has model/1\.bias as well"):
        checkpoint.load(store, found, fewer)
    checkpoint.load(store, found, {name: each for name, each in state.items() if name.startswith("model/")})


class Failing:
    """Makes a store's writes of checkpoint files fail while ``broken``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.broken = True
        from pipelines.train.storage import Witness

        write = Witness.write

        def failing(witness: Witness, data: Any) -> int:
            if self.broken:
                raise error
            return write(witness, data)

        monkeypatch.setattr(Witness, "write", failing)


def test_a_disk_that_is_full_for_a_while_does_not_end_a_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    state = trained(1)
    save(store, "run", 1, state)
    disk = Failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    made = Saver(store, "run", Group(), keep=2)
    made.save(2, state, {})
    made.wait()
    (news,) = made.news()
    assert news.step == 2 and "No space left on device" in news.problem
    assert [each.step for each in checkpoint.find(store, ["run"])] == [1]
    disk.broken = False
    made.save(3, state, {})
    made.finish()
    assert [(each.step, each.problem) for each in made.news()] == [(3, "")]
    assert [each.step for each in checkpoint.find(store, ["run"])] == [3, 1]


def test_too_many_failures_in_a_row_or_a_last_one_stop_the_run_cleanly(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trained(1)
    Failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    made = Saver(store, "run", Group(), keep=2, patience_s=0.0)
    made.save(1, state, {})
    with pytest.raises(InfraError, match="the last checkpoint could not be written") as raised:
        made.finish()
    assert "No space left" in str(raised.value)
    made.save(2, state, {})
    made.save(3, state, {})
    with pytest.raises(InfraError, match="3 checkpoints in a row could not be written"):
        made.save(4, state, {})


def test_failures_that_are_over_soon_do_not_end_a_run_however_many_they_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Failing(monkeypatch, InfraError("the S3 store does not answer"))
    made = Saver(store, "run", Group(), keep=2)
    for step in range(1, 8):
        made.save(step, trained(1), {})
    made.wait()
    assert [bool(each.problem) for each in made.news()] == [True] * 7
    disk.broken = False
    made.save(8, trained(1), {})
    made.finish()
    assert [each.step for each in checkpoint.find(store, ["run"])] == [8]


def test_the_last_checkpoint_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Failing(monkeypatch, InfraError("the S3 store does not answer"))
    monkeypatch.setattr(saver, "PAUSE_S", 0.01)
    made = Saver(store, "run", Group(), keep=2)
    made.save(1, trained(1), {})
    made._join()
    disk.broken = False
    made.finish()
    assert [each.step for each in checkpoint.find(store, ["run"])] == [1]


def test_an_unexpected_error_in_the_thread_is_raised_where_training_waits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(store: Store, found: checkpoint.Checkpoint) -> list[str]:
        raise KeyError("a mistake in the code")

    monkeypatch.setattr(saver, "damage", mistaken)
    for call in (Saver.wait, Saver.finish):
        made = Saver(store, "run", Group(), keep=2)
        made.save(1, trained(1), {})
        with pytest.raises(KeyError, match="a mistake in the code"):
            call(made)
        assert made.news() == []
    assert checkpoint.find(store, ["run"]) == []


def test_a_file_that_reads_back_otherwise_does_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store), "sha256", lambda self, key: ("0" * 64, 3))
    made = Saver(store, "run", Group(), keep=2, patience_s=0.0)
    made.save(1, trained(1), {})
    with pytest.raises(InfraError, match="could not be written"):
        made.finish()
    assert checkpoint.find(store, ["run"]) == []


def test_tries_that_went_back_are_known(store: Store) -> None:
    state = trained(1)
    for step in (5, 10):
        save(store, "first", step, state)
    tries = ["third", "second", "first"]
    assert checkpoint.newest_try(store, tries) == "first"
    checkpoint.reject(store, "second", 5, {"skips": [[5, 3]]})
    assert [each.step for each in checkpoint.find(store, tries)] == [5]
    assert checkpoint.find(store, tries)[0].memory == {"skips": [[5, 3]], "step": 5}
    assert checkpoint.newest_try(store, tries) == "second"
    save(store, "third", 7, state)
    assert [each.step for each in checkpoint.find(store, tries)] == [7, 5]
    assert checkpoint.newest_try(store, tries) == "third"
    assert [each.step for each in checkpoint.find(store, ["first"])] == [10, 5]  # nothing is deleted there
    assert checkpoint.newest_try(store, ["none"]) is None


def test_markers_of_an_earlier_version_are_passed_over(store: Store, tmp_path: Path) -> None:
    store.write("run/step-000000003/complete.json", json.dumps({"step": 3, "sha256": "x", "size_bytes": 3}).encode())
    assert checkpoint.find(store, ["run"]) == []


@pytest.mark.slow  # the S3 client tries several times before it gives up
def test_an_s3_server_that_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server that stops and comes back: the checkpoint meanwhile is lost and said so, the last one waits."""
    import threading
    import time

    import boto3
    from moto.server import ThreadedMotoServer

    from cluster.store import open_store

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (credentials | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="away")
    store = open_store("s3://away/prefix")
    made = Saver(store, "run", Group(), keep=2)
    state = trained(1)
    made.save(1, state, {})
    made.wait()
    server.stop()
    made.save(2, state, {})
    made.wait()
    again = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    made.save(3, state, {})
    back = threading.Thread(target=lambda: (time.sleep(5), again.start()))
    back.start()
    made.finish()
    back.join()
    outcomes = [(each.step, bool(each.problem)) for each in made.news()]
    assert outcomes[:2] == [(1, False), (2, True)] and outcomes[-1] == (3, False)
    assert [each.step for each in checkpoint.find(store, ["run"])] == [3, 1]
    again.stop()
