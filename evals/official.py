"""The task files that lm-eval ships: what each one reads, found without importing lm-eval (which is slow)."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import InfraError

_FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "mmlu": "mmlu/default/*.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
}

HUB_REVISIONS = {
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
    "truthfulqa/truthful_qa": "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
}
"""Commits of the datasets on the Hub, so that ``hub`` means the same questions every time."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that reads lm-eval's ``!function`` as plain text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@dataclass(frozen=True)
class OfficialTask:
    """One task of lm-eval.

    Attributes:
        name: its name in results (``mmlu_anatomy``).
        suite: the suite it belongs to (``mmlu``).
        file: its YAML file.
        dataset: the dataset's name on the Hub (``cais/mmlu``).
        config: the dataset's configuration (``anatomy``).
        splits: the splits it reads: the questions, then the worked examples (also read when there are none).
    """

    name: str
    suite: str
    file: Path
    dataset: str
    config: str
    splits: tuple[str, ...]


def task_files(suites: Iterable[str]) -> list[tuple[str, Path]]:
    """(suite, YAML file) of every task and group that the suites consist of, in a fixed order."""
    root = _tasks_folder()
    return [(suite, path) for suite in suites for path in sorted(root.glob(_FILES[suite]))]


def official_tasks(suites: Iterable[str]) -> list[OfficialTask]:
    """The tasks of the suites; group files are left out."""
    return [task for suite, path in task_files(suites) if (task := _read_task(suite, path)) is not None]


@functools.cache
def _read_task(suite: str, path: Path) -> OfficialTask | None:
    settings = read_task_file(path)
    if "group" in settings:
        return None
    questions = settings.get("test_split") or settings["validation_split"]
    examples = settings.get("fewshot_split") or settings.get("training_split") or settings.get("validation_split")
    return OfficialTask(
        name=settings["task"],
        suite=suite,
        file=path,
        dataset=settings["dataset_path"],
        config=settings["dataset_name"],
        splits=tuple(dict.fromkeys(split for split in (questions, examples) if split)),
    )


def read_task_file(path: Path) -> dict[str, Any]:
    """A task file's settings with those it includes; the file's own win."""
    settings: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    include = settings.pop("include", None)
    return settings if include is None else {**read_task_file(path.parent / include), **settings}


@functools.cache
def _tasks_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InfraError("lm-eval is not installed", next_step="`make setup` installs it")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"
