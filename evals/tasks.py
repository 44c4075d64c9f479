"""lm-eval's official tasks, unchanged, on the chosen questions, without its slow starts.

For each official YAML an overlay includes it and replaces only where the rows come from. A task manager that knows just
the overlay avoids indexing 14,000 files (23 s), and each prompt template is compiled once, not once a document.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from evals.benchmarks import BenchmarkSet
from evals.config import EvalsConfig
from evals.official import HUB_REVISIONS, official_tasks, task_files


def write_overlay(folder: Path, benchmarks: BenchmarkSet, suites: Iterable[str]) -> None:
    """One YAML a task and group: the official file plus the place of its rows."""
    suites = tuple(suites)
    by_file = {task.file: task for task in official_tasks(suites)}
    for suite, path in task_files(suites):
        lines = [f"include: {json.dumps(str(path))}"]
        if path in by_file:
            task = by_file[path]
            lines.append(f"task: {task.name}")
            if benchmarks.root is None:
                lines.append(f"dataset_kwargs: {{revision: {HUB_REVISIONS[task.dataset]}}}")
            else:
                source = {"folder": str(benchmarks.root / task.dataset), "config": task.config}
                lines.append("custom_dataset: !function evals.hub_layout.load_splits")
                lines.append(f"dataset_kwargs: {json.dumps(source)}")
        (folder / f"{suite}-{path.stem}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_tasks(benchmarks: BenchmarkSet, config: EvalsConfig) -> Any:
    """The suites as lm-eval's TaskDict, with the number of worked examples and their seed set as its command sets them.

    Raises:
        UserError: a set has fewer worked examples than ``num_fewshot`` asks for.
    """
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory(prefix="raymill-tasks-") as folder:
        write_overlay(Path(folder), benchmarks, config.suites)
        loaded = TaskManager(include_path=folder, include_defaults=False).load(list(config.suites))
    for name, task in loaded["tasks"].items():
        own = task.get_config("num_fewshot")
        if own is None:  # a task that fixes it, as TruthfulQA does, is never overruled
            task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
        task.set_fewshot_seed(seed=config.seed)
        _check_examples(name, task, benchmarks)
    return loaded


def _check_examples(name: str, task: Any, benchmarks: BenchmarkSet) -> None:
    wanted = task.get_config("num_fewshot")
    available = len(task.sampler.df) if wanted and hasattr(task, "sampler") else 0
    if wanted and available < wanted:
        raise UserError(
            f"{benchmarks.name(name)} has {available} worked examples, and num_fewshot asks for {wanted}",
            where="evals.num_fewshot",
            next_step=f"use at most {available}, or another set of benchmarks",
        )


@contextmanager
def quick_and_quiet() -> Iterator[None]:
    """Inside: prompt templates are compiled once each, and lm-eval prints neither bars nor remarks of its own."""
    import lm_eval.api.task
    import lm_eval.utils

    environment, task_module = lm_eval.utils.env, lm_eval.api.task
    bars, logger = task_module.tqdm, logging.getLogger("lm_eval")
    level = logger.level
    environment.from_string = functools.lru_cache(maxsize=4096)(environment.from_string)
    task_module.tqdm = lambda items, **_options: items
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        del environment.from_string  # the class's own shows again
        task_module.tqdm = bars
        logger.setLevel(level)
