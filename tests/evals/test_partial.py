"""Scores over the answered questions are lm-eval's own over just those questions."""

from __future__ import annotations

from typing import Any

import pytest

from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.partial import count, explain, restrict
from evals.results import suite_scores
from evals.tasks import load_tasks, quick_and_quiet

from .conftest import write_benchmarks
from .hash_lm import HashLM


@pytest.fixture(scope="module")
def loaded_tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, EvalsConfig]:
    root = write_benchmarks(tmp_path_factory.mktemp("partial") / "set", ("arc_easy", "mmlu", "truthfulqa_mc2"), rows=6)
    config = EvalsConfig(benchmarks=str(root), suites=("arc_easy", "mmlu", "truthfulqa_mc2"))
    with quick_and_quiet():
        return load_tasks(open_benchmarks(config), config), config


def test_restricting_equals_asking_only_those(loaded_tasks: tuple[Any, EvalsConfig]) -> None:
    from lm_eval.evaluator import evaluate

    loaded, config = loaded_tasks
    kept = {name: [0, 2, 3, 5] if "e" in name else [1, 2, 3, 4, 5] for name in loaded["tasks"]}
    missing = {(name, place) for name, places in kept.items() for place in range(6) if place not in places}
    with quick_and_quiet():
        whole = dict(evaluate(HashLM(), loaded))
        found = restrict(whole, loaded, missing)
        expected = dict(evaluate(HashLM(), loaded, samples=kept))
    assert suite_scores(found, config.suites) == suite_scores(expected, config.suites)
    assert {name: len(samples) for name, samples in found["samples"].items()} == {
        name: len(places) for name, places in kept.items()
    }


def test_a_task_without_any_answer_is_left_out_of_its_group(loaded_tasks: tuple[Any, EvalsConfig]) -> None:
    from lm_eval.evaluator import evaluate

    loaded, config = loaded_tasks
    missing = {("mmlu_anatomy", place) for place in range(6)} | {("arc_easy", place) for place in range(6)}
    with quick_and_quiet():
        whole = dict(evaluate(HashLM(), loaded))
        found = restrict(whole, loaded, missing)
    scores = suite_scores(found, config.suites)
    assert scores["arc_easy"] == {}
    assert scores["mmlu"]["acc"]["n"] == 56 * 6
    counts = count(missing, whole)
    assert counts == {"arc_easy": (6, 6), "mmlu_anatomy": (6, 6)}
    assert "(gone); questions without an answer: arc_easy 6 of 6, mmlu_anatomy 6 of 6" in explain(counts, "gone")


def test_no_whole_answer_at_all_leaves_no_score(loaded_tasks: tuple[Any, EvalsConfig]) -> None:
    """The endpoint died within the first question."""
    from lm_eval.evaluator import evaluate

    loaded, config = loaded_tasks
    with quick_and_quiet():
        whole = dict(evaluate(HashLM(), loaded))
    found = restrict(whole, loaded, {(name, place) for name in loaded["tasks"] for place in range(6)})
    assert suite_scores(found, config.suites) == {suite: {} for suite in config.suites}
