"""How the driver follows a run, without Ray: the run itself is a thread that writes a journal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.stage import Paused
from cluster.store import Store
from pipelines.train import launch
from pipelines.train.config import TrainConfig
from pipelines.train.journal import Journal


class Progress:
    """What the driver says; ``began`` is set when it saw that the workers train."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.totals: list[Any] = []
        self.began = threading.Event()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, done: float, **values: Any) -> None:
        pass

    @contextmanager
    def step(self, name: str, total: Any = None, unit: str = "") -> Iterator[Progress]:
        if name == "train":
            self.totals.append(total)
            self.began.set()
        yield self


def test_a_start_below_an_earlier_one_is_seen_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of an earlier try has starts at 0 and 40; the checkpoint at 40 is damaged, and this one is at 20."""
    prefix = f"Model/m/try/{launch.FOLDER}/{launch.JOURNAL}"
    for step in (0, 40):
        writer = Journal(store, prefix)
        writer.write({"kind": "start", "step": step, "steps": 60})
        writer.close()
    progress = Progress()
    seen: list[bool] = []

    class Fit(threading.Thread):
        summary, error = {"start_seconds": {}}, None

        def __init__(self, job: Any) -> None:
            super().__init__(daemon=True)

        def run(self) -> None:
            writer = Journal(store, prefix)
            writer.write({"kind": "start", "step": 20, "steps": 60})
            writer.close()
            seen.append(progress.began.wait(120))

    monkeypatch.setattr(launch, "_Fit", Fit)
    monkeypatch.setattr(launch, "POLL_S", 0.01)
    monkeypatch.setattr(launch, "require_resources", lambda *arguments, **more: None)
    output = SimpleNamespace(resume_key=lambda folder: f"Model/m/try/{folder}", earlier=list, prefix="Model/m/try")
    task: Any = SimpleNamespace(config=TrainConfig(), where="pretrain")
    context: Any = SimpleNamespace(store=store, output=output, progress=progress, watch=None, until=None)
    training = launch.run_training(task, context)
    assert seen == [True]
    assert progress.notes == ["continues at step 20 of 60, where an earlier run was stopped"]
    assert progress.totals == [40]
    assert [each["step"] for each in training.records] == [0, 20]


def test_a_run_that_pauses_tells_its_last_validation_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"Model/m/try/{launch.FOLDER}/{launch.JOURNAL}"
    jobs: list[Any] = []

    class Fit(threading.Thread):
        summary, error = {"paused": True, "steps": 30, "validation_loss": 2.5}, None

        def __init__(self, job: Any) -> None:
            super().__init__(daemon=True)
            jobs.append(job)

        def run(self) -> None:
            writer = Journal(store, prefix)
            writer.write({"kind": "start", "step": 0, "steps": 60})
            writer.write({"kind": "validation", "step": 30, "loss": 2.5})
            writer.close()

    monkeypatch.setattr(launch, "_Fit", Fit)
    monkeypatch.setattr(launch, "require_resources", lambda *arguments, **more: None)
    output = SimpleNamespace(resume_key=lambda folder: f"Model/m/try/{folder}", earlier=list, prefix="Model/m/try")
    task: Any = SimpleNamespace(config=TrainConfig(), where="pretrain")
    seen: list[Any] = []
    context: Any = SimpleNamespace(store=store, output=output, progress=Progress(), watch=seen.append, until=0.5)
    with pytest.raises(Paused) as caught:
        launch.run_training(task, context)
    assert (caught.value.step, caught.value.loss) == (30, 2.5)
    assert seen[-1][-1] == {"kind": "validation", "step": 30, "loss": 2.5}
    assert jobs[0].until == 0.5


def test_a_run_that_waits_for_nodes_says_what_the_cluster_lacks_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"Model/m/try/{launch.FOLDER}/{launch.JOURNAL}"
    progress = Progress()
    asked: list[int] = []
    done = threading.Event()

    class Fit(threading.Thread):
        summary, error = {"start_seconds": {}}, None

        def __init__(self, job: Any) -> None:
            super().__init__(daemon=True)

        def run(self) -> None:
            writer = Journal(store, prefix)
            writer.write({"kind": "start", "step": 0, "steps": 60})
            writer.close()
            done.wait(120)

    def require(workers: int, where: str, **more: Any) -> None:
        asked.append(workers)
        if len(asked) == 5:
            done.set()
        if len(asked) > 2:  # at first Ray does not know yet that the node is gone
            raise UserError(f"{workers} workers need {workers} CPUs, the cluster has 1", where=where)

    monkeypatch.setattr(launch, "_Fit", Fit)
    monkeypatch.setattr(launch, "POLL_S", 0.01)
    monkeypatch.setattr(launch, "require_resources", require)
    output = SimpleNamespace(resume_key=lambda folder: f"Model/m/try/{folder}", earlier=list, prefix="Model/m/try")
    task: Any = SimpleNamespace(config=TrainConfig(workers=3), where="pretrain")
    context: Any = SimpleNamespace(store=store, output=output, progress=progress, watch=None, until=None)
    launch.run_training(task, context)
    assert progress.notes == [
        "3 workers need 3 CPUs, the cluster has 1: training waits for nodes; interrupted, the same command continues"
    ]
    assert len(asked) >= 5
