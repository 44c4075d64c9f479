"""Runs alignments of a tiny chat model without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.artifact import Artifact
from cluster.store import open_store
from pipelines.align.config import AlignConfig
from pipelines.align.sources import Base
from pipelines.align.task import AlignTask, PairTask, RolloutTask
from pipelines.train.journal import Follower
from pipelines.train.worker import Job, train_job


class Bench:
    """Makes and runs alignments in a store of its own, as a Ray Train worker does."""

    def __init__(self, folder: Path, publish: Callable[..., Artifact], model: Path, rows: Mapping[str, str]) -> None:
        self.store = open_store(folder)
        self.model = publish(self.store, model, "Model", "pretrain")
        self.rows = {split: f"rows/{split}.jsonl" for split in rows}
        for split, key in self.rows.items():
            self.store.write(key, rows[split].encode())

    def task(self, template: str | None = None, **fields: Any) -> AlignTask:
        values = {"batch_sequences": 6, "workers": 1, "learning_rate": 5e-3, "rank": 4, "alpha": 8}
        values |= {"checkpoint_every_steps": 2, "validation_sequences": 6, "seed": 5}
        config = AlignConfig(**values | fields)
        return (RolloutTask if config.on_policy else PairTask)(config, Base(self.model), self.rows, template)

    def run(self, task: AlignTask, stop_at: int | None = None) -> dict[str, Any]:
        """Train; with ``stop_at`` to be broken off when that step was recorded. The summary with all records."""

        def show(record: Any) -> None:
            if record["kind"] == "train" and record["step"] == stop_at:
                raise KeyboardInterrupt

        job = Job(task, self.store, "try/resume", "try")
        try:
            summary = train_job(job, 0, 1, torch.device("cpu"), time.monotonic(), show)
        finally:
            for thread in threading.enumerate():  # a killed process would not go on writing
                if thread.name == "checkpoint":
                    thread.join()
        assert summary is not None
        return summary | {"records": Follower(self.store, "try/resume/journal").poll()}

    def weights(self) -> bytes:
        """The exported model."""
        return self.store.read("try/model.safetensors")


@pytest.fixture
def make_bench(
    tmp_path: Path, publish_model: Callable[..., Artifact], chat_model: Path, preference_rows: dict[str, str]
) -> Callable[[str], Bench]:
    return lambda name: Bench(tmp_path / name, publish_model, chat_model, preference_rows)


@pytest.fixture
def bench(make_bench: Callable[[str], Bench]) -> Bench:
    return make_bench("store")


@pytest.fixture
def bench_of() -> type[Bench]:
    """The class, for models and rows of one's own."""
    return Bench
