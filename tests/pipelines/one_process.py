"""Trains in this process what a Ray Train worker trains, maybe broken off; stands for Ray under stages."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch

from cluster.artifact import Artifact
from cluster.config import parse_document
from cluster.progress import Progress
from cluster.stage import StageContext, execute
from cluster.store import Store
from pipelines.graph import build_graph, identities
from pipelines.recipe import validate_recipe
from pipelines.train.journal import Follower
from pipelines.train.launch import Training
from pipelines.train.task import TrainTask
from pipelines.train.worker import JOURNAL, Job, train_job

TIMES = ("tokens_per_second", "mfu", "memory_bytes", "seconds")
FILES = ("model.safetensors", "adapter_model.safetensors", "adapter_config.json", "config.json")


class TaskBench:
    """Trains in a store of its own; the result lies under ``try/``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def run(self, task: TrainTask, stop_at: int | None = None, device: str = "cpu") -> dict[str, Any]:
        """Train; with ``stop_at`` to be broken off when that step was recorded. The summary with all records."""

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
        return summary | {"records": Follower(self.store, f"try/resume/{JOURNAL}").poll()}

    def written(self) -> dict[str, bytes]:
        """The result's files that say what was trained."""
        return {name: self.store.read(f"try/{name}") for name in FILES if self.store.exists(f"try/{name}")}


def measured(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What training recorded, without how long it took."""
    records = [each for each in summary["records"] if each["kind"] in ("train", "validation")]
    return [{name: value for name, value in each.items() if name not in TIMES} for each in records]


def train_here(task: TrainTask, context: StageContext) -> Training:
    """What :func:`pipelines.train.launch.run_training` gives, without Ray."""
    job = Job(task, context.store, context.output.resume_key("train"), context.output.prefix)
    summary = train_job(job, 0, 1, torch.device("cpu"), time.monotonic())
    assert summary is not None
    records = [each for each in Follower(context.store, f"{job.resume}/{JOURNAL}").poll() if each["kind"] != "note"]
    return Training(task.where, summary, records)


def run_section(text: str, store: Store) -> dict[str, Artifact]:
    """Every node of a recipe with this section ``finetune``, made in order: node -> artifact."""
    recipe = validate_recipe(parse_document(f"store: {store.url}\nfinetune: {text}", "recipe.yaml"))
    nodes = build_graph(recipe)
    found = identities(nodes)
    made: dict[str, Artifact] = {}
    for node in nodes:
        inputs = {role: made[name] for role, name in node.inputs.items()}
        with Progress().track(node.name) as tracker:
            made[node.name] = execute(node.stage, found[node.name], node.config, inputs, store, tracker).artifact
    return made
