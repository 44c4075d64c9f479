"""Evaluations made up from values: the files that ``raymill eval`` leaves, without a model."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.artifact import Artifact, Identity, InputEntry
from cluster.attempt import Attempt
from cluster.stage import provenance
from cluster.store import Store
from evals.intervals import interval

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""suite -> task -> each document's value."""


def write_evaluation(
    folder: Path,
    suites: Values,
    *,
    model: str = "Model/base-0123456789ab",
    metrics: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """``results.json`` and ``samples/`` in a folder."""
    (folder / "samples").mkdir(parents=True)
    tasks: dict[str, Any] = {}
    for suite, by_task in suites.items():
        metric = (metrics or {}).get(suite, "acc")
        rows, values = [], []
        for task, own in by_task.items():
            for number, value in enumerate(own):
                values.append(float(value))
                rows.append(sample_row(task, number, metric, float(value)))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "samples" / f"{suite}.jsonl").write_text(text, encoding="utf-8")
        mean = math.fsum(values) / len(values)
        bounds = interval(values, mean, 0.1 / math.sqrt(len(values)))
        tasks[suite] = {
            metric: {"score": mean, "stderr": 0.01, "interval_95": bounds, "chance": 0.25, "n": len(values)}
        }
    results = {
        "benchmarks": "mirror",
        "benchmarks_sha256": "0" * 64,
        "tasks": tasks,
        "subtasks": {},
        "model": {"id": model, "kind": model.partition("/")[0], "fingerprint": "0" * 64},
        "settings": {
            "suites": list(suites),
            "num_fewshot": dict.fromkeys(suites, 0),
            "task_versions": dict.fromkeys(suites, 1.0),
            "limit": None,
            "batch_size": 8,
            "seed": 1234,
            **(settings or {}),
        },
        **(more or {}),
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def sample_row(task: str, number: int, metric: str, value: float) -> dict[str, Any]:
    """One document with four choices, of which the first is right."""
    chosen = 0 if value >= 0.5 else 1 + number % 3
    return {
        "task": task,
        "doc_id": number,
        "doc_hash": hashlib.sha256(f"{task.removesuffix('_mc1').removesuffix('_mc2')} {number}".encode()).hexdigest(),
        "doc": {"question": f"question {number} of {task}"},
        "target": 0,
        "prompt": f"Question: number\u2028{number}\x85of {task}?\nAnswer:",  # MMLU has such ends of lines
        "answers": [
            {"text": f" choice {choice}", "logprob": -1.0 if choice == chosen else -2.0, "greedy": False}
            for choice in range(4)
        ],
        "metrics": {metric: value},
    }


def coin(seed: int, count: int, share: float) -> list[float]:
    """So many right and wrong answers, about ``share`` right."""
    chance = random.Random(seed)
    return [float(chance.random() < share) for _ in range(count)]


def changed(values: Sequence[float], gained: int, lost: int) -> list[float]:
    """The answers with so many wrong ones right and so many right ones wrong."""
    wrong = [index for index, value in enumerate(values) if value == 0][:gained]
    right = [index for index, value in enumerate(values) if value == 1][:lost]
    return [1.0 - value if index in {*wrong, *right} else value for index, value in enumerate(values)]


def publish_evaluation(
    store: Store, folder: Path, name: str, model: Artifact | None = None, identity: Identity | None = None
) -> Artifact:
    """A folder of an evaluation as the artifact that the stage publishes."""
    results = json.loads((folder / "results.json").read_text())
    inputs = {"model": InputEntry(id=model.id, fingerprint=model.fingerprint)} if model else {}
    parents = {role: entry.fingerprint for role, entry in inputs.items()}
    identity = identity or Identity("EvalReport", name, 1, {"of": str(folder)}, parents)
    with Attempt(store, identity.id) as attempt:
        for path in folder.rglob("*.json*"):
            shutil.copy(path, attempt.path(path.relative_to(folder).as_posix()))
        metrics = {
            f"{suite}.{metric}": figures["score"]
            for suite, m in results["tasks"].items()
            for metric, figures in m.items()
        }
        return attempt.publish(
            Artifact(
                kind="EvalReport",
                name=name,
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                inputs=inputs,
                attempt=attempt.name,
                files=attempt.seal(),
                metrics=metrics,
                details={"tasks": results["tasks"], "benchmarks": "mirror", "model": results["model"]["id"]},
                provenance=provenance(0.0),
            )
        )


def publish_model(store: Store, name: str) -> Artifact:
    """A model's record, with no weights behind it."""
    identity = Identity("Model", name, 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        attempt.write_text("config.json", "{}")
        record = Artifact(
            kind="Model",
            name=name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)
