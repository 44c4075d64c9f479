"""Fine-tunes models that write, in this process as a Ray Train worker does it, maybe broken off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.artifact import Artifact
from cluster.store import open_store
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Conversation, dialogue, to_jsonl
from pipelines.finetune.task import FinetuneTask
from tests.pipelines.one_process import TaskBench


def conversations(count: int, first: int = 0) -> list[Conversation]:
    """Questions of a few words, answered with one of three."""
    return [
        dialogue(f"words {number}?", ("words", "word s", "sword")[number % 3], f"chats.jsonl:{number}")
        for number in range(first, first + count)
    ]


class GenerationBench(TaskBench):
    """Trains in a store of its own."""

    def __init__(self, folder: Path, model: Path, publish: Callable[..., Artifact]) -> None:
        super().__init__(open_store(folder))
        self.base = publish(self.store, model, "Model", "base")
        self.keys = {"train": "rows/train.jsonl", "validation": "rows/validation.jsonl"}
        for part, rows in (("train", conversations(24)), ("validation", conversations(9, first=100))):
            self.store.write(self.keys[part], to_jsonl(rows).encode())

    def task(self, **fields: Any) -> FinetuneTask:
        values = {"data": "chats.jsonl", "batch_sequences": 8, "workers": 1, "seed": 5, "examples_shown": 1}
        values |= {"checkpoint_every_steps": 2, "warmup_fraction": 0.0, "validation_sequences": 9}
        return FinetuneTask(FinetuneConfig.model_validate(values | fields), self.base, self.keys, "plain")
