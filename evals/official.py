"""What each task reads: its dataset, configuration and splits, found without importing lm-eval (which is slow)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from evals.catalogue import read_task_file, task_files

HUB_REVISIONS = {
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
    "truthfulqa/truthful_qa": "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
}
"""Commits of the datasets on the Hub, so that ``hub`` means the same questions every time. Of other datasets the newest
is taken."""

BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow", "xml", "webdataset", "imagefolder", "audiofolder"})
"""Values of ``dataset_path`` that say how to read a task's own files, and are no dataset's name."""

DEFAULT_CONFIG = "default"


@dataclass(frozen=True)
class OfficialTask:
    """One task, of lm-eval's or a team's.

    Attributes:
        name: its name in results (``mmlu_anatomy``).
        suite: the suite it belongs to (``mmlu``).
        file: its YAML file.
        dataset: the dataset's name on the Hub (``cais/mmlu``); empty where the task brings its rows along.
        config: the dataset's configuration (``anatomy``).
        splits: the splits it reads: the questions, then the worked examples (also read when there are none).
        metadata: what its file says of itself.
        plain_rows: whether it only asks the rows, and processes none of them beforehand.
        own_data: files, folders or patterns of them on this machine that a task reads its rows from.
        version: as its file says; raised by its authors when its scores change.
    """

    name: str
    suite: str
    file: Path
    dataset: str
    config: str
    splits: tuple[str, ...]
    version: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    plain_rows: bool = False
    own_data: tuple[str, ...] = ()


def official_tasks(suites: Iterable[str], folder: str | None = None) -> list[OfficialTask]:
    """The tasks of the suites; group files are left out.

    Args:
        folder: a team's own task files.

    Raises:
        UserError: a suite is unknown, or a task's file does not say what it reads.
    """
    read = _read_task if folder is None else _read_task.__wrapped__
    return [task for suite, path in task_files(suites, folder) if (task := read(suite, path)) is not None]


@functools.cache
def _read_task(suite: str, path: Path) -> OfficialTask | None:
    settings = read_task_file(path)
    if "group" in settings:
        return None
    dataset = "" if _brings_rows(settings) else str(settings.get("dataset_path") or "")
    metadata = settings.get("metadata")
    return OfficialTask(
        name=settings["task"],
        suite=suite,
        file=path,
        dataset=dataset,
        config=str(settings.get("dataset_name") or DEFAULT_CONFIG),
        splits=_splits(settings, path),
        version=str(metadata.get("version", "")) if isinstance(metadata, Mapping) else "",
        metadata=metadata if isinstance(metadata, Mapping) else {},
        plain_rows="process_docs" not in settings and "process_docs" not in (settings.get("fewshot_config") or {}),
        own_data=_own_data(settings),
    )


def _brings_rows(settings: Mapping[str, Any]) -> bool:
    place = str(settings.get("dataset_path") or "")
    # A relative name is the Hub's, also where a folder of that name happens to lie in the working directory.
    return place in BUILDERS or "custom_dataset" in settings or "class" in settings or place.startswith(("/", "."))


def _own_data(settings: Mapping[str, Any]) -> tuple[str, ...]:
    place = str(settings.get("dataset_path") or "")
    if place.startswith(("/", ".")):
        return (place,)
    if place not in BUILDERS or not isinstance(settings.get("dataset_kwargs"), Mapping):
        return ()
    folder, named = (settings["dataset_kwargs"].get(key) for key in ("data_dir", "data_files"))
    found: list[str] = []
    left = [named or folder]
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.append(str(Path(folder, value)) if folder and named else value)  # files are named from the folder
        elif isinstance(value, (list, tuple, Mapping)):
            left += value.values() if isinstance(value, Mapping) else value
    return tuple(sorted(each for each in found if "://" not in each and ":/" not in each))


def _splits(settings: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    questions = settings.get("test_split") or settings.get("validation_split")
    if not questions and "class" not in settings:
        raise UserError(
            "names no split to ask (test_split or validation_split)",
            where=str(path),
            next_step="write `test_split:` with the dataset's split that holds the questions",
        )
    nested = settings.get("fewshot_config")
    own = nested.get("split") if isinstance(nested, Mapping) else None
    examples = (
        own or settings.get("fewshot_split") or settings.get("training_split") or settings.get("validation_split")
    )
    return tuple(dict.fromkeys(str(split) for split in (questions, examples) if split))
