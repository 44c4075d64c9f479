"""The rate that curation found stands beside the scores, found by lineage alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, Identity, InputEntry
from cluster.attempt import Attempt
from cluster.store import Store
from cluster.store_local import LocalStore
from evals.benchmarks import BenchmarkSet
from evals.contamination import find_contamination, metrics
from evals.report import build_report, score_rows

SET = BenchmarkSet("sample", None, "a" * 64)


def counts(questions: int, found: int, left: int = 0) -> dict[str, Any]:
    return {
        "questions": questions,
        "unchecked": 2,
        "found": found,
        "rate": found / questions,
        "left": left,
        "left_rate": left / questions,
        "documents": found,
    }


def account(sha256: str = SET.sha256, **suites: dict[str, Any]) -> str:
    return json.dumps({"benchmarks_sha256": sha256, "suites": suites, "tasks": {"mmlu_law": counts(5, 1)}})


def publish(store: Store, kind: str, name: str, files: dict[str, str], **parents: Artifact) -> Artifact:
    identity = Identity(kind, name, 1, files, {role: each.fingerprint for role, each in parents.items()})
    with Attempt(store, identity.id) as attempt:
        for path, text in files.items():
            attempt.write_text(path, text)
        return attempt.publish(
            Artifact(
                kind=kind,
                name=name,
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                inputs={role: InputEntry(id=each.id, fingerprint=each.fingerprint) for role, each in parents.items()},
                attempt=attempt.name,
                files=attempt.seal(),
            )
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path)


def family(store: Store, **files: str) -> Artifact:
    """corpus -> curate -> tokens -> model -> adapter; the adapter."""
    corpus = publish(store, "Corpus", "corpus", {"data.txt": "x"})
    curated = publish(
        store, "Corpus", "curate", {"x.txt": "x", **{f"{k}.json": v for k, v in files.items()}}, corpus=corpus
    )
    tokens = publish(store, "Tokens", "tokens", {"t.txt": "x"}, corpus=curated)
    model = publish(store, "Model", "pretrain", {"m.txt": "x"}, tokens=tokens)
    return publish(store, "Adapter", "finetune", {"a.txt": "x"}, model=model, corpus=curated)


def test_found_through_all_generations(store: Store) -> None:
    adapter = family(store, contamination=account(arc_easy=counts(10, 3, 1)))
    found = find_contamination(store, [None, adapter], SET)
    assert found is not None
    assert [each.partition("-")[0] for each in found["corpora"]] == ["Corpus/curate"]
    assert found["suites"]["arc_easy"]["found"] == 3
    assert found["same_questions"]
    assert metrics(found, ["arc_easy", "mmlu"]) == {"arc_easy.contamination": 0.3, "arc_easy.contamination_left": 0.1}


def test_nobody_has_looked(store: Store) -> None:
    assert find_contamination(store, [family(store)], SET) is None
    assert metrics(None, ["arc_easy"]) == {}


def test_the_worse_of_two_corpora_counts(store: Store) -> None:
    one = publish(store, "Corpus", "one", {"contamination.json": account(arc_easy=counts(10, 9, 0))})
    two = publish(store, "Corpus", "two", {"contamination.json": account("b" * 64, arc_easy=counts(10, 2, 2))})
    found = find_contamination(store, [one, two, one], SET)
    assert found is not None
    assert len(found["corpora"]) == 2
    assert found["suites"]["arc_easy"]["left"] == 2
    assert not found["same_questions"]


def results(contamination: Any) -> dict[str, Any]:
    scores = {"acc": {"score": 0.5, "stderr": 0.1, "interval_95": [0.3, 0.7], "chance": 0.25, "n": 10}}
    return {
        "tasks": {"arc_easy": scores, "truthfulqa_mc1": scores},
        "subtasks": {"mmlu": {"mmlu_law": scores}},
        "settings": {"limit": None},
        "truncated_requests": 0,
        "contamination": contamination,
    }


def test_the_page_shows_it_beside_the_scores(store: Store) -> None:
    adapter = family(store, contamination=account("b" * 64, arc_easy=counts(10, 3, 1)))
    found = find_contamination(store, [adapter], SET)
    rows = {row["task"]: row for row in score_rows(results(None)["tasks"], SET, found)}
    assert rows["arc_easy (sample)"]["found in corpus"] == "30.0%"
    assert rows["arc_easy (sample)"]["left in training text"] == "10.0%"
    assert rows["truthfulqa_mc1 (sample)"]["found in corpus"] == "not looked for"
    page = build_report("E", SET, results(found), {}).render()
    for words in ("30.0%", "20.0%", "Corpus/curate-", "2 questions are too short", "another set of questions"):
        assert words in page
    assert "nobody has looked for these questions" in build_report("E", SET, results(None), {}).render()
