"""Fine-tunes models that write, in this process as a Ray Train worker does it, maybe broken off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.artifact import Artifact
from cluster.store import open_store
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Conversation, dialogue, to_jsonl
from pipelines.finetune.task import FinetuneTask
from pipelines.train.journal import Follower
from pipelines.train.worker import Job, train_job

TIMES = ("tokens_per_second", "mfu", "memory_bytes")
FILES = ("model.safetensors", "adapter_model.safetensors", "adapter_config.json", "config.json")


def conversations(count: int, first: int = 0) -> list[Conversation]:
    """Questions of a few words, answered with one of three."""
    return [
        dialogue(f"words {number}?", ("words", "word s", "sword")[number % 3], f"chats.jsonl:{number}")
        for number in range(first, first + count)
    ]


class GenerationBench:
    """Trains in a store of its own."""

    def __init__(self, folder: Path, model: Path, publish: Callable[..., Artifact]) -> None:
        self.store = open_store(folder)
        self.base = publish(self.store, model, "Model", "base")
        self.keys = {"train": "rows/train.jsonl", "validation": "rows/validation.jsonl"}
        for part, rows in (("train", conversations(24)), ("validation", conversations(9, first=100))):
            self.store.write(self.keys[part], to_jsonl(rows).encode())

    def task(self, **fields: Any) -> FinetuneTask:
        values = {"data": "chats.jsonl", "batch_sequences": 8, "workers": 1, "seed": 5, "examples_shown": 1}
        values |= {"checkpoint_every_steps": 2, "warmup_fraction": 0.0, "validation_sequences": 9}
        return FinetuneTask(FinetuneConfig.model_validate(values | fields), self.base, self.keys, "plain")

    def run(self, task: FinetuneTask, stop_at: int | None = None, device: str = "cpu") -> dict[str, Any]:
        def show(record: Any) -> None:
            if record["kind"] == "train" and record["step"] == stop_at:
                raise KeyboardInterrupt

        job = Job(task, self.store, "try/resume", "try")
        try:
            summary = train_job(job, 0, 1, torch.device(device), time.monotonic(), show)
        finally:
            for thread in threading.enumerate():  # a killed process would not go on writing
                if thread.name == "checkpoint":
                    thread.join()
        assert summary is not None
        return summary | {"records": Follower(self.store, "try/resume/journal").poll()}

    def written(self) -> dict[str, bytes]:
        """The result's files that say what was trained."""
        return {name: self.store.read(f"try/{name}") for name in FILES if self.store.exists(f"try/{name}")}


def measured(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What training recorded, without how long it took."""
    records = [each for each in summary["records"] if each["kind"] in ("train", "validation")]
    return [{name: value for name, value in each.items() if name not in TIMES} for each in records]
