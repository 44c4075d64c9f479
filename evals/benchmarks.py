"""Which questions a score stands for: the shipped sample, the Hub's, or a folder in the Hub's layout.

The choice is always somebody's: the recipe's ``evals.benchmarks``, or RAYMILL_BENCHMARKS where the recipe has none.
The set's manifest hash is part of a result's identity; the place it was read from is not.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from evals.config import BenchmarkTextConfig, EvalsConfig
from evals.hub_layout import READABLE, split_files
from evals.mirror import check_hashes, fetch_mirror, hash_files, manifest_sha256
from evals.official import HUB_REVISIONS, OfficialTask, official_tasks
from evals.set_config import hash_set

ENVIRONMENT = "RAYMILL_BENCHMARKS"
SAMPLE = Path(__file__).parent / "sample"
SHOWN_PROBLEMS = 5
Choice = EvalsConfig | BenchmarkTextConfig


@dataclass(frozen=True)
class BenchmarkSet:
    """The questions that will be asked.

    Attributes:
        label: what stands beside every score: ``sample``, ``hub`` or ``mirror``.
        root: the folder they are read from; None for the Hub.
        sha256: the manifest's hash.
    """

    label: str
    root: Path | None
    sha256: str

    @property
    def description(self) -> str:
        """The set in words, for reports."""
        return {
            "sample": "Raymill's own sample questions in the benchmarks' format, not the official benchmarks",
            "hub": "the official sets from the Hugging Face Hub, at fixed revisions",
            "mirror": f"a mirror in the Hub's layout, manifest {self.sha256[:12]}",
        }[self.label]

    def name(self, task: str) -> str:
        """A task's name as shown beside a score: ``arc_easy (sample)``."""
        return f"{task} ({self.label})"


def chosen(config: Choice, environment: Mapping[str, str] = os.environ) -> str:
    """``sample``, ``hub`` or a path: the recipe's choice, else the environment's.

    Raises:
        UserError: neither says.
    """
    choice = config.benchmarks if config.benchmarks is not None else environment.get(ENVIRONMENT)
    if not choice:
        raise UserError(
            "nothing says which questions to ask",
            where="evals.benchmarks",
            next_step="set it to sample (the shipped questions, not the official ones), hub (download the official"
            f" sets) or the path or s3:// address of a folder in the Hub's layout; or set {ENVIRONMENT}",
        )
    return choice


def open_benchmarks(config: Choice, environment: Mapping[str, str] = os.environ) -> BenchmarkSet:
    """The chosen set, checked to hold every file that the suites read.

    Raises:
        UserError: nothing is chosen, the folder is not there, or files are missing from it.
    """
    choice = chosen(config, environment)
    tasks = official_tasks(config.suites, config.tasks_folder)
    datasets = sorted({task.dataset for task in tasks if task.dataset})
    if choice == "hub":
        return BenchmarkSet("hub", None, _hub_hash(datasets))
    if choice.startswith("s3://"):
        root = fetch_mirror(choice, datasets)
    else:
        root = SAMPLE if choice == "sample" else Path(choice).expanduser().absolute()
    if not root.is_dir():
        raise UserError(
            "no such folder",
            where=f"evals.benchmarks: {choice}",
            next_step="use sample, hub, or the path of a folder that holds allenai/ai2_arc, cais/mmlu, …",
        )
    check_layout(root, tasks, choice)
    files = hash_files(root, datasets)
    check_hashes(root, files, datasets)
    sha256 = manifest_sha256(files)
    # A copy of the shipped sample is the sample, wherever it lies: its scores must never pass for another set's.
    is_sample = choice == "sample" or (SAMPLE.is_dir() and bool(files) and files == hash_files(SAMPLE, datasets))
    return BenchmarkSet("sample" if is_sample else "mirror", root, sha256)


def resolve_identity(config: EvalsConfig) -> dict[str, Any]:
    """What the choice of questions and the harness's version add to an evaluation's identity."""
    benchmarks = open_benchmarks(config)
    identity: dict[str, Any] = {
        "benchmarks": benchmarks.label,
        "benchmarks_sha256": benchmarks.sha256,
        "lm_eval": metadata.version("lm-eval"),
    }
    if config.tasks_folder:
        identity["tasks_sha256"] = manifest_sha256(hash_files(Path(config.tasks_folder).expanduser(), ["."]))
        rows = _hash_own_rows(official_tasks(config.suites, config.tasks_folder))
        identity |= {"rows_sha256": rows} if rows else {}
    if config.sets:
        from evals.own_sets import read_set

        for each in config.sets.values():
            read_set(each)  # a bad line is found now, and not when all suites have been asked
        identity["sets_sha256"] = {name: hash_set(each) for name, each in config.sets.items()}
    return identity


def resolve_text_identity(config: BenchmarkTextConfig) -> dict[str, Any]:
    """What the choice of questions adds to their text's identity; other settings of an evaluation do not change it."""
    benchmarks = open_benchmarks(config)
    tasks = [
        f"{task.name} {task.dataset} {task.config} {task.splits[0]}"
        for task in official_tasks(sorted(config.suites), config.tasks_folder)
    ]
    return {
        "benchmarks": benchmarks.label,
        "benchmarks_sha256": benchmarks.sha256,
        "tasks_sha256": hashlib.sha256("\n".join(tasks).encode()).hexdigest(),
    }


def check_layout(root: Path, tasks: Iterable[OfficialTask], choice: str = "") -> None:
    """Check that a folder holds every file that the tasks read.

    Args:
        choice: what the user called it, for the message.

    Raises:
        UserError: naming what is missing.
    """
    problems: list[str] = []
    lacking: list[str] = []
    for task in tasks:
        found = _problems(root, task) if task.dataset else []
        problems += [problem for problem in found if problem not in problems]
        if found and task.suite not in lacking:
            lacking.append(task.suite)
    if problems:
        shown = problems[:SHOWN_PROBLEMS]
        more = len(problems) - len(shown)
        command = " ".join(["raymill benchmarks mirror FOLDER", *(f"--suite {suite}" for suite in lacking)])
        raise UserError(
            "is not a complete benchmark folder:\n  " + "\n  ".join(shown) + (f"\n  and {more} more" if more else ""),
            where=choice or str(root),
            next_step=f"`{command}` puts what is missing into a folder or a mirror; or leave these suites out"
            " (evals.suites). The shipped sample has ARC, MMLU and TruthfulQA",
        )


def _problems(root: Path, task: OfficialTask) -> list[str]:
    """What of a task's files is missing or cannot be read, in words."""
    try:
        files = split_files(root / task.dataset, task.config)
    except UserError as error:
        return [f"{Path(error.where).relative_to(root)}: {error.what}"]
    problems: list[str] = []
    for split in task.splits:
        found = files.get(split)
        label = f"{task.dataset}: {task.config}, split {split}"
        if found is None:
            problems.append(f"{label}: README.md names no files for it (it has: {', '.join(files) or 'none'})")
        elif not found:
            problems.append(f"{label}: its files are missing")
        else:
            problems.extend(
                f"{path.relative_to(root)}: only {' and '.join(READABLE)} files are read"
                for path in found
                if path.suffix not in READABLE
            )
    return problems


def _hub_hash(datasets: Iterable[str]) -> str:
    pinned = sorted(f"{dataset}@{HUB_REVISIONS.get(dataset, 'main')}" for dataset in datasets)
    return hashlib.sha256("\n".join(pinned).encode()).hexdigest()


def _hash_own_rows(tasks: Iterable[OfficialTask]) -> str:
    """SHA-256 over the rows that a team's tasks bring along, so that new ones are asked; empty where none do.

    Raises:
        UserError: such a file is not there.
    """
    digest, found = hashlib.sha256(), False
    for pattern in sorted({pattern for task in tasks for pattern in task.own_data}):
        paths = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - patterns are absolute
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        if not any(file.is_file() for file in files):
            raise UserError("no such file", where=pattern, next_step="check dataset_kwargs in the task's file")
        for file in filter(Path.is_file, files):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        found = True
    return digest.hexdigest() if found else ""
