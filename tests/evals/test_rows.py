"""Rows without ``datasets`` are those that it gives, and what they lack comes from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from evals.hub_layout import load_splits
from evals.official import official_tasks
from evals.rows import Rows

from .conftest import write_benchmarks

TABLE = pa.Table.from_pylist(
    [
        {"q": "a\u2028b", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "n": 1, "f": 0.5, "flags": [True]},
        {"q": None, "choices": {"text": [], "label": []}, "n": None, "f": float("inf"), "flags": None},
        {"q": "é", "choices": None, "n": 3, "f": -1.0, "flags": [False, None]},
    ]
)


def test_each_way_of_reading_gives_what_the_library_gives() -> None:
    rows, theirs = Rows(TABLE, "0" * 16), Dataset(TABLE)
    assert list(rows) == list(theirs) == [rows[number] for number in range(3)]
    assert len(rows) == len(theirs)
    assert list(rows.features) == list(theirs.features)
    assert rows._made is None
    assert rows[-1] == theirs[-1]
    assert rows["n"][:] == theirs["n"][:]
    assert rows[1:] == theirs[1:]
    assert list(rows.map(lambda row: {"n": 7})) == list(theirs.map(lambda row: {"n": 7}))
    with pytest.raises(IndexError):
        rows[3]


def test_a_row_that_is_changed_is_new_at_the_next_access() -> None:
    rows = Rows(TABLE, "0" * 16)
    rows[0]["q"] = "changed"
    next(iter(rows))["choices"]["text"].append("changed")
    assert list(rows) == TABLE.to_pylist()


def test_what_is_decoded_is_left_to_the_library() -> None:
    plain = Features({"label": ClassLabel(names=["a", "b"]), "texts": List(Value("string"))})
    assert Rows(pa.table({"label": [0], "texts": [["x"]]}, schema=plain.arrow_schema), "0").is_plain
    images = Features({"page": Image()})
    assert not Rows(images.arrow_schema.empty_table(), "0").is_plain
    assert Rows(TABLE, "0").is_plain


def test_only_tasks_that_process_their_rows_get_the_librarys(tmp_path: Path) -> None:
    tasks = {task.name: task for task in official_tasks(["arc_easy", "mmlu", "truthfulqa_mc2", "hellaswag"])}
    assert tasks.pop("hellaswag").plain_rows is False
    assert all(task.plain_rows for task in tasks.values())
    folder = write_benchmarks(tmp_path / "set", ("arc_easy",)) / "allenai" / "ai2_arc"
    for plain, kind in ((True, Rows), (False, Dataset)):
        assert type(load_splits(folder=str(folder), config="ARC-Easy", plain=plain)["test"]) is kind


def test_loading_and_building_the_usual_tasks_does_not_import_what_few_tasks_need(tmp_path: Path) -> None:
    suites = ("arc_easy", "truthfulqa_mc2")
    code = f"""
import sys
from evals import tasks
from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.later import is_executed
config = EvalsConfig(benchmarks={str(write_benchmarks(tmp_path / "set", suites))!r}, suites={suites!r})
with tasks.quick_and_quiet():
    assert tasks.evaluator()
    loaded = tasks.load_tasks(open_benchmarks(config), config)["tasks"]
    for task in loaded.values():
        task.build_all_requests()
assert sum(len(task.instances) for task in loaded.values()) == 24
assert not [name for name in ("datasets", "sacrebleu", "lm_eval.loggers", "requests", "torch") if is_executed(name)]
import datasets
assert datasets.Dataset and is_executed("datasets")
from lm_eval.loggers import EvaluationTracker
assert EvaluationTracker and is_executed("lm_eval.loggers")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
