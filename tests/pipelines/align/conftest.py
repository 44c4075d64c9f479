"""Runs alignments of a tiny chat model without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.store import open_store
from pipelines.align.config import AlignConfig
from pipelines.align.sources import Base
from pipelines.align.task import AlignTask, PairTask, RolloutTask
from tests.pipelines.one_process import TaskBench


class Bench(TaskBench):
    """Makes and runs alignments in a store of its own, as a Ray Train worker does."""

    def __init__(self, folder: Path, publish: Callable[..., Artifact], model: Path, rows: Mapping[str, str]) -> None:
        super().__init__(open_store(folder))
        self.model = publish(self.store, model, "Model", "pretrain")
        self.rows = {split: f"rows/{split}.jsonl" for split in rows}
        for split, key in self.rows.items():
            self.store.write(key, rows[split].encode())

    def task(self, template: str | None = None, **fields: Any) -> AlignTask:
        values = {"batch_sequences": 6, "workers": 1, "learning_rate": 5e-3, "rank": 4, "alpha": 8}
        values |= {"checkpoint_every_steps": 2, "validation_sequences": 6, "seed": 5}
        config = AlignConfig(**values | fields)
        return (RolloutTask if config.on_policy else PairTask)(config, Base(self.model), self.rows, template)

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
