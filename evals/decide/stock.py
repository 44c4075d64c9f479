"""What ``lm_eval --output_path … --log_samples`` left, read as an evaluation, so that older results can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from evals.decide.metrics import sides

Files = tuple[Path, dict[str, Path]]
"""The aggregated results, and task -> its samples."""


def find_stock(folder: Path) -> Files | None:
    """The newest results of lm-eval in a folder, or in the one below it that is named for the model; or None."""
    found = sorted([*folder.glob("results_*.json"), *folder.glob("*/results_*.json")], key=lambda path: path.name)
    if not found:
        return None
    newest = found[-1]
    date = newest.stem.removeprefix("results_")
    samples = {
        path.name.removeprefix("samples_").removesuffix(f"_{date}.jsonl"): path
        for path in newest.parent.glob(f"samples_*_{date}.jsonl")
    }
    return newest, samples


def read_stock(files: Files) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Raymill's ``results.json`` and rows of ``samples/`` by suite, as far as lm-eval's files hold them.

    Raises:
        UserError: they hold no samples.
    """
    place, samples = files
    told = json.loads(place.read_text(encoding="utf-8"))
    groups: Mapping[str, list[str]] = {name: below for name, below in told.get("group_subtasks", {}).items() if below}
    children = {child for below in groups.values() for child in below}
    suites = [name for name in {**told["results"], **groups} if name not in children]
    rows = {
        suite: [row for task in _leaves(groups, suite) for row in _rows(task, samples.get(task))] for suite in suites
    }
    rows = {suite: own for suite, own in rows.items() if own}
    if not rows:
        raise UserError(
            "lm-eval's results have no samples beside them",
            where=str(place),
            next_step="run lm_eval with --log_samples: two models are compared by their answers",
        )
    settings = told.get("config", {})
    shots, versions = told.get("n-shot", {}), told.get("versions", {})
    first = {suite: _leaves(groups, suite)[0] for suite in rows}
    return {
        "benchmarks": "lm-eval",
        "tasks": {suite: _scores(told["results"].get(suite, {}), len(rows[suite])) for suite in rows},
        "subtasks": {},
        "higher_is_better": sides(told.get("higher_is_better", {}), {suite: _leaves(groups, suite) for suite in rows}),
        "model": {"id": str(told.get("model_name") or settings.get("model") or place.parent.name)},
        "settings": {
            "suites": [*rows],
            "num_fewshot": {suite: shots.get(suite, shots.get(task, 0)) for suite, task in first.items()},
            "task_versions": {suite: versions.get(suite) for suite in rows},
            "limit": settings.get("limit"),
            "batch_size": settings.get("batch_size"),
            "seed": settings.get("fewshot_seed"),
            "backend": settings.get("model"),
        },
    }, rows


def _leaves(groups: Mapping[str, list[str]], name: str) -> list[str]:
    return [leaf for child in groups[name] for leaf in _leaves(groups, child)] if name in groups else [name]


def _scores(row: Mapping[str, Any], count: int) -> dict[str, Any]:
    found = {}
    for key, value in row.items():
        metric, comma, choice = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            name = metric if choice == "none" else f"{metric}@{choice}"
            found[name] = {"score": float(value), "stderr": None, "interval_95": None, "chance": None, "n": count}
    return found


def _rows(task: str, path: Path | None) -> Iterator[dict[str, Any]]:
    if path is None:
        return
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    seen: Counter[tuple[str, int, str]] = Counter()
    for line in path.read_bytes().splitlines():  # as text, a question that holds U+2028 would be cut there
        sample = json.loads(line)
        choice = sample.get("filter", "none")
        place = (sample["doc_hash"], int(sample["doc_id"]))
        number = seen[(*place, choice)]
        seen[(*place, choice)] += 1
        row = found.setdefault((*place, number), _row(task, sample))
        for metric in sample["metrics"]:
            if isinstance(sample[metric], (int, float)):
                row["metrics"][metric if choice == "none" else f"{metric}@{choice}"] = float(sample[metric])
    yield from found.values()


def _row(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    asked = [tuple(each.values()) for each in sample["arguments"].values()]
    target = sample["target"]
    row: dict[str, Any] = {
        "task": task,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "target": int(target) if str(target).isdigit() else target,
        "prompt": str(asked[0][0]),
        "metrics": {},
    }
    if len(asked[0]) > 1 and isinstance(asked[0][1], str):
        row["answers"] = [
            {"text": each[1], "logprob": float(response[0])}
            for each, response in zip(asked, sample["filtered_resps"], strict=True)
        ]
    else:
        row["output"] = str(sample["resps"][0][0])
    return row
