"""Stage ``benchmark-text``: the questions that an evaluation asks, with their answers, as plain text by task.

Curation reads it to keep them out of the corpus. Rows come through the same task files and the same loader as the
evaluation's own; all questions are written, whatever the evaluation's ``limit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.stage import Outcome, StageContext
from evals.benchmarks import open_benchmarks
from evals.config import BenchmarkTextConfig, EvalsConfig
from evals.official import official_tasks
from evals.offline import offline

FOLDER = "questions"


@dataclass(frozen=True)
class Question:
    """One question as it stands in its dataset, without a prompt's wording.

    Attributes:
        suite, task: as in the evaluation's results (``mmlu``, ``mmlu_anatomy``).
        number: its place in the task's questions, from 0.
        choices: every answer that is offered.
        right: which of them are right, from 0.
    """

    suite: str
    task: str
    number: int
    question: str
    choices: list[str]
    right: list[int]


def run(config: BenchmarkTextConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Write ``questions/<task>.parquet``, one row a question (the fields of :class:`Question`).

    Raises:
        UserError: nothing says which questions, or files are missing from the chosen folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("suite", pa.string()),
            ("task", pa.string()),
            ("number", pa.int32()),
            ("question", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("right", pa.list_(pa.int32())),
        ]
    )
    benchmarks = open_benchmarks(config)
    counts = dict.fromkeys(config.suites, 0)
    with offline(benchmarks.root is not None), context.progress.step(f"reading questions ({benchmarks.label})"):
        from evals import tasks

        settings = EvalsConfig(suites=config.suites, benchmarks=config.benchmarks, tasks_folder=config.tasks_folder)
        with tasks.quick_and_quiet():
            loaded = tasks.load_tasks(benchmarks, settings)["tasks"]
            for official in official_tasks(config.suites, config.tasks_folder):
                rows = list(questions(official.suite, official.name, official.dataset, loaded[official.name].eval_docs))
                table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
                pq.write_table(table, context.output.path(f"{FOLDER}/{official.name}.parquet"), compression="zstd")
                counts[official.suite] += len(rows)
    return Outcome(
        counts={"questions": sum(counts.values())} | {f"questions.{suite}": count for suite, count in counts.items()},
        details={"benchmarks": benchmarks.label, "benchmarks_sha256": benchmarks.sha256, "suites": list(config.suites)},
    )


def questions(suite: str, task: str, dataset: str, rows: Any) -> Iterator[Question]:
    """The rows of one task.

    Args:
        dataset: its name on the Hub, which says what its columns are.
    """
    read = _READERS.get(dataset)
    if read is None:
        raise UserError(
            f"nothing says which columns of {dataset or 'its rows'} hold the question, so the corpus cannot be searched"
            " for it",
            where=task,
            next_step="leave curate.decontaminate out, or this task out of evals.suites",
        )
    for number, row in enumerate(rows):
        choices, right = read(task, row)
        yield Question(suite, task, number, str(row["question"]), choices, right)


def _arc(_task: str, row: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    return list(row["choices"]["text"]), [list(row["choices"]["label"]).index(row["answerKey"])]


def _mmlu(_task: str, row: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    return list(row["choices"]), [int(row["answer"])]


def _truthfulqa(task: str, row: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    if task.endswith("gen"):
        right = list(row["correct_answers"])
        return [*right, *row["incorrect_answers"]], list(range(len(right)))
    targets = row["mc2_targets" if task.endswith("mc2") else "mc1_targets"]
    return list(targets["choices"]), [number for number, label in enumerate(targets["labels"]) if label]


_READERS: dict[str, Callable[[str, Mapping[str, Any]], tuple[list[str], list[int]]]] = {
    "allenai/ai2_arc": _arc,
    "cais/mmlu": _mmlu,
    "truthfulqa/truthful_qa": _truthfulqa,
}
