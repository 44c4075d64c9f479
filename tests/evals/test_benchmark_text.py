"""The questions as curation gets them: all of them, from whichever set the evaluation asks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store_local import LocalStore
from evals.benchmark_text import questions
from evals.benchmarks import SAMPLE
from evals.config import BENCHMARK_TEXT_STAGE, SUITES, BenchmarkTextConfig, EvalsConfig
from evals.official import official_tasks

from .conftest import write_benchmarks


def make(root: Path, config: BenchmarkTextConfig) -> tuple[Artifact, dict[str, list[dict[str, object]]]]:
    store = LocalStore(root)
    with Progress(io.StringIO(), live=False).track("benchmark-text") as tracker:
        identity = identify(BENCHMARK_TEXT_STAGE, config, {})
        made = execute(BENCHMARK_TEXT_STAGE, identity, config, {}, store, tracker).artifact
    tables = {
        Path(each.path).stem: pq.read_table(store.local_path(made.key(each.path))).to_pylist() for each in made.files
    }
    return made, tables


def fingerprint(**settings: object) -> str:
    config = BenchmarkTextConfig.of(EvalsConfig.model_validate(settings))
    return identify(BENCHMARK_TEXT_STAGE, config, {}).fingerprint


def test_all_suites_of_the_sample(tmp_path: Path) -> None:
    made, tables = make(tmp_path, BenchmarkTextConfig(suites=SUITES, benchmarks="sample"))
    assert set(tables) == {task.name for task in official_tasks(SUITES)}
    assert made.counts["questions"] == sum(map(len, tables.values()))
    assert made.details["benchmarks"] == "sample"
    source = SAMPLE / "allenai/ai2_arc/ARC-Easy/test.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    assert [row["question"] for row in tables["arc_easy"]] == [row["question"] for row in rows]
    assert [row["number"] for row in tables["arc_easy"]] == list(range(len(rows)))
    for row, written in zip(rows, tables["arc_easy"], strict=True):
        assert written["choices"] == row["choices"]["text"]
        assert written["right"] == [row["choices"]["label"].index(row["answerKey"])]
    for rows_of_task in tables.values():
        for row in rows_of_task:
            assert row["right"]
            assert row["question"]
    anatomy = tables["mmlu_anatomy"][0]
    assert (anatomy["suite"], anatomy["choices"][anatomy["right"][0]]) == ("mmlu", "radial")  # type: ignore[index]
    assert any(len(row["right"]) > 1 for row in tables["truthfulqa_mc2"])  # type: ignore[arg-type]
    assert all(len(row["right"]) == 1 for row in tables["truthfulqa_mc1"])  # type: ignore[arg-type]


def test_a_folder_is_read_from_any_place_with_one_identity(tmp_path: Path) -> None:
    suites = ("arc_easy", "truthfulqa_mc1")
    one, other = (write_benchmarks(tmp_path / name, suites) for name in ("one", "other"))
    identities = {fingerprint(suites=suites, benchmarks=str(place)) for place in (one, other)}
    assert len(identities) == 1
    made, _ = make(tmp_path / "store", BenchmarkTextConfig(suites=suites, benchmarks=str(one)))
    assert made.counts == {"questions": 6, "questions.arc_easy": 3, "questions.truthfulqa_mc1": 3}
    assert {fingerprint(suites=suites, benchmarks="sample")}.isdisjoint(identities)


def test_only_what_changes_the_questions_is_identity() -> None:
    base = {"benchmarks": "sample", "suites": ["arc_easy", "mmlu"]}
    same = fingerprint(**base)
    assert fingerprint(**base, limit=3, num_fewshot=2, seed=9, batch_size=1, heldout=False) == same
    assert fingerprint(**base | {"suites": ["mmlu", "arc_easy"]}) == same
    assert fingerprint(**base | {"suites": ["mmlu"]}) != same


def test_a_choice_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYMILL_BENCHMARKS", raising=False)
    with pytest.raises(UserError, match="nothing says which questions to ask"):
        fingerprint(suites=["arc_easy"])


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(UserError, match="which columns of some/set"):
        list(questions("s", "t", "some/set", [{"question": "?"}]))
