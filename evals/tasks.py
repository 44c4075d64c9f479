"""lm-eval's official tasks, unchanged, on the chosen questions, without its slow starts.

For each official YAML an overlay includes it and replaces only where the rows come from. A task manager that knows just
the overlay avoids indexing 14,000 files; :mod:`evals.prompts` makes the prompts faster.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import InfraError, UserError
from evals.benchmarks import BenchmarkSet
from evals.catalogue import task_files
from evals.config import EvalsConfig
from evals.hub_layout import ROWS
from evals.later import imported_later, is_executed
from evals.official import HUB_REVISIONS, official_tasks
from evals.prompts import compiled_once, remember_examples
from evals.read_once import files_read_once
from evals.sampling import draw

BARS = "HF_DATASETS_DISABLE_PROGRESS_BARS"
"""Read by ``datasets`` when it is imported."""


def write_overlay(folder: Path, benchmarks: BenchmarkSet, config: EvalsConfig) -> None:
    """One YAML a task and group: the task's own file plus the place of its rows."""
    by_file = {task.file: task for task in official_tasks(config.suites, config.tasks_folder)}
    for number, (suite, path) in enumerate(task_files(config.suites, config.tasks_folder)):
        lines = [f"include: {json.dumps(str(path.absolute()))}"]
        task = by_file.get(path)
        if task is not None:
            lines.append(f"task: {task.name}")
        if task is not None and task.dataset and benchmarks.root is not None:
            source = {"folder": str(benchmarks.root / task.dataset), "config": task.config, "plain": task.plain_rows}
            # Not as dataset_kwargs: where there are any, lm-eval asks for the version of `datasets`, which imports it.
            lines.append("custom_dataset: !function evals.hub_layout.load_rows")
            lines.append(f"metadata: {json.dumps({**task.metadata, ROWS: source})}")
            lines.append("dataset_kwargs: null")
        elif task is not None and task.dataset in HUB_REVISIONS:
            lines.append(f"dataset_kwargs: {{revision: {HUB_REVISIONS[task.dataset]}}}")
        (folder / f"{suite}-{path.stem}-{number}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def evaluator() -> Callable[..., Any]:
    """lm-eval's own ``evaluate``."""
    with imported_later():
        from lm_eval.evaluator import evaluate

    return evaluate


def load_tasks(benchmarks: BenchmarkSet, config: EvalsConfig) -> Any:
    """The suites as lm-eval's TaskDict, with the number of worked examples and their seed set as its command sets them.

    Raises:
        UserError: a set has fewer worked examples than ``num_fewshot`` asks for, or a task cannot be loaded.
        InfraError: the Hub cannot be reached.
    """
    with imported_later():
        from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory(prefix="raymill-tasks-") as folder, imported_later():
        write_overlay(Path(folder), benchmarks, config)
        try:
            with files_read_once():
                loaded = TaskManager(include_path=folder, include_defaults=False).load(list(config.suites))
        except ConnectionError as error:
            raise InfraError(
                f"the questions cannot be had: {str(error).strip().splitlines()[0]}",
                where=f"evals.benchmarks: {benchmarks.label}",
                next_step="repeat this where the Hub can be reached, or name a mirror (`raymill benchmarks mirror`)",
            ) from error
        except (KeyError, ValueError, TypeError, ImportError, AttributeError, OSError) as error:
            raise UserError(
                f"cannot be loaded: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
                where=f"evals.suites: {', '.join(config.suites)}",
                next_step="check the task's file and its dataset's splits and columns; RAYMILL_DEBUG=1 shows the whole"
                " error",
            ) from error
    suite_of = {task.name: task.suite for task in official_tasks(config.suites, config.tasks_folder)}
    for name, task in loaded["tasks"].items():
        asked = fewshot_of(config, suite_of.get(name, name))
        own = task.get_config("num_fewshot")
        if own is None or (asked is not None and own != 0):  # a task that fixes 0, as TruthfulQA does, keeps it
            task.set_config(key="num_fewshot", value=asked or 0)
        task.set_fewshot_seed(seed=config.seed)
        _check_examples(name, task, benchmarks)
        remember_examples(task)
    return loaded


def fewshot_of(config: EvalsConfig, suite: str) -> int | None:
    """Worked examples that the configuration asks for; None where it leaves that to the task."""
    return config.num_fewshot.get(suite) if isinstance(config.num_fewshot, dict) else config.num_fewshot


def sampled_questions(loaded: Any, config: EvalsConfig) -> dict[str, list[int]] | None:
    """Task -> the questions of a random sample (:func:`evals.sampling.draw`); None where all or the first are asked."""
    if config.sample is None:
        return None
    sizes: dict[str, dict[str, int]] = {}
    for task in official_tasks(config.suites, config.tasks_folder):
        sizes.setdefault(task.suite, {})[task.name] = len(loaded["tasks"][task.name].eval_docs)
    drawn: dict[str, list[int]] = {}
    for suite, of_suite in sizes.items():
        drawn |= draw(of_suite, config.sample, config.seed, suite)
    return drawn


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
    with imported_later():
        import lm_eval.api.task

    task_module = lm_eval.api.task
    bars, logger = task_module.tqdm, logging.getLogger("lm_eval")
    level = logger.level
    task_module.tqdm = lambda items, **_options: items
    logger.setLevel(logging.ERROR)
    try:
        with compiled_once(), without_bars():
            yield
    finally:
        task_module.tqdm = bars
        logger.setLevel(level)


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, the library ``datasets`` shows no progress bars; it is not imported for that."""
    if not is_executed("datasets"):
        before = os.environ.get(BARS)
        os.environ[BARS] = "1"
        try:
            yield
        finally:
            os.environ.pop(BARS)
            os.environ.update({BARS: before} if before is not None else {})
        return
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
