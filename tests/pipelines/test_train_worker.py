"""What a worker does with an error that no restart helps against."""

from __future__ import annotations

import dataclasses
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import InfraError, RaymillError, UserError
from cluster.store import Store
from cluster.store_local import LocalStore
from pipelines.train import worker
from pipelines.train.config import TrainConfig
from pipelines.train.launch import _outcome, _recorded_failure
from pipelines.train.loop import Diverged
from pipelines.train.saver import CheckpointsFailed
from pipelines.train.worker import Job, train_job, work

ADVICE = {"where": "pretrain", "next_step": "lower learning_rate"}


@pytest.fixture
def job(store: LocalStore) -> Job:
    task: Any = None
    return Job(task, store, resume="Model/m/try/resume/train", output="Model/m/try")


def fails(monkeypatch: pytest.MonkeyPatch, error: RaymillError) -> None:
    def train(job: Job) -> None:
        raise error

    monkeypatch.setattr(worker, "_train", train)


def test_a_loss_that_is_not_finite_ends_every_worker_without_a_restart(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, Diverged("the loss became nan at step 3 of 9", **ADVICE))
    assert work({"job": job}) is None
    recorded = _recorded_failure(job)
    assert type(recorded) is UserError
    assert str(recorded) == str(UserError("the loss became nan at step 3 of 9", **ADVICE))


def test_one_workers_mistake_ends_the_group_and_the_restarted_one_does_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, UserError("max_positions is too small", **ADVICE))
    with pytest.raises(UserError):
        work({"job": job})
    assert "max_positions" in str(_recorded_failure(job))
    fails(monkeypatch, InfraError("never reached"))
    assert work({"job": job}) is None


def test_what_may_pass_is_left_to_a_restart(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, InfraError("the store does not answer"))
    with pytest.raises(InfraError):
        work({"job": job})
    assert _recorded_failure(job) is None


def test_a_store_that_takes_no_checkpoints_ends_every_worker_without_a_restart(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no note either: the reason comes back as the result, and the driver raises it."""
    failed = CheckpointsFailed("the last checkpoint could not be written", where="s3://b", attempts=("SlowDown",))
    fails(monkeypatch, failed)
    result = work({"job": job})
    assert result is not None and list(job.store.files()) == []
    fit: Any = SimpleNamespace(error=None, summary=pickle.loads(pickle.dumps(result)))
    with pytest.raises(InfraError) as raised:
        _outcome(fit, job)
    assert type(raised.value) is InfraError and str(raised.value) == str(failed)


@pytest.mark.parametrize(
    ("words", "knobs"),
    [
        ("Task was killed due to the node running low on memory.\nMemory on the node was 15 GB / 16 GB", True),
        ("The worker died. (1) The process was killed by SIGKILL by the OOM killer", True),
        ("The actor died: its node had no room for it", False),
    ],
)
def test_a_worker_that_was_ended_for_want_of_memory_says_which_knobs_help(job: Job, words: str, knobs: bool) -> None:
    job = dataclasses.replace(job, task=SimpleNamespace(where="pretrain"))  # type: ignore[arg-type]
    fit: Any = SimpleNamespace(error=RuntimeError(words), summary=None)
    with pytest.raises(InfraError, match="training failed") as raised:
        _outcome(fit, job)
    assert ("parallel.shard" in raised.value.next_step) is knobs
    assert "repeat the command" in raised.value.next_step


class TooLarge:
    """A kind of training whose model does not fit."""

    where = "pretrain"
    config = TrainConfig(workers=1)

    def prepare(self, store: Store) -> None:
        pass

    def samples(self) -> tuple[Any, Any]:
        return None, None

    def model(self) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 7 bytes")


def test_a_model_that_does_not_fit_is_refused_with_what_helps(store: LocalStore) -> None:
    import torch

    task: Any = TooLarge()
    job = Job(task, store, resume="Model/m/try/resume/train", output="Model/m/try")
    with pytest.raises(UserError, match=r"out of memory: .*can't allocate memory") as raised:
        train_job(job, 0, 1, torch.device("cpu"), 0.0)
    assert raised.value.where == "pretrain"
    assert "parallel.shard" in raised.value.next_step and "use a smaller size" in raised.value.next_step
