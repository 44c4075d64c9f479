"""Chance levels, metric names and rows of samples."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import InternalError
from evals.benchmarks import BenchmarkSet
from evals.report import score_rows
from evals.results import chance_level, metric_values, sample_rows, subtask_scores, suite_scores


def sample(acc: float, choices: int, doc: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": 0,
        "doc_hash": "f" * 64,
        "doc": doc or {},
        "target": 1,
        "arguments": [("Question", f" choice {number}") for number in range(choices)],
        "filtered_resps": [(-1.5 - number, False) for number in range(choices)],
        "metrics": ["acc"],
        "acc": acc,
        **more,
    }


RESULTS: dict[str, Any] = {
    "results": {
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.5},
        "g_a": {"alias": "a", "acc,none": 1.0, "acc_stderr,none": "N/A"},
        "g_b": {"alias": "b", "acc,none": 0.5, "acc_stderr,none": 0.5},
        "g": {"alias": "g", "acc,none": 2 / 3, "acc_stderr,none": 0.3},
    },
    "group_subtasks": {"g": ["middle"], "middle": ["g_b", "g_a"], "arc_easy": []},
    "samples": {
        "arc_easy": [sample(1.0, 4), sample(0.0, 5)],
        "g_a": [sample(1.0, 4)],
        "g_b": [sample(1.0, 4), sample(0.0, 4, doc_id=1)],
    },
}


def test_a_suite_and_a_group_of_groups_are_scored_over_their_questions() -> None:
    scores = suite_scores(RESULTS, ["arc_easy", "g"])
    assert scores["arc_easy"]["acc"]["chance"] == pytest.approx((1 / 4 + 1 / 5) / 2)
    assert scores["g"]["acc"]["n"] == 3
    low, high = scores["g"]["acc"]["interval_95"]
    assert 0.2 < low < 2 / 3 < high < 0.95
    assert subtask_scores(RESULTS, ["arc_easy", "g"])["g"]["g_a"]["acc"]["stderr"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_an_error_that_names_the_task(value: float) -> None:
    results = {
        "results": {"truthfulqa_mc2": {"alias": "mc2", "acc,none": value, "acc_stderr,none": "N/A"}},
        "samples": {"truthfulqa_mc2": [sample(value, 4), sample(0.5, 4)]},
    }
    with pytest.raises(InternalError, match=r"truthfulqa_mc2\.acc: the score is (nan|inf), not a number"):
        suite_scores(results, ["truthfulqa_mc2"])


def test_where_nothing_but_such_scores_is_left_it_is_an_error_too() -> None:
    """A perplexity's documents have no number of their own."""
    results = {
        "results": {"wikitext": {"alias": "wikitext", "word_perplexity,none": float("nan")}},
        "samples": {"wikitext": [sample(0.0, 1, metrics=["word_perplexity"], word_perplexity=(-1.0, 5))]},
    }
    with pytest.raises(InternalError, match=r"wikitext\.word_perplexity: the score is nan"):
        suite_scores(results, ["wikitext"])


def test_metric_names_are_the_contract() -> None:
    values = metric_values(suite_scores(RESULTS, ["arc_easy", "g"]))
    assert values == {"arc_easy.acc": 0.5, "arc_easy.acc_stderr": 0.5, "g.acc": 2 / 3, "g.acc_stderr": 0.3}


def test_chance_in_truthfulqa_depends_on_what_is_scored() -> None:
    doc = {
        "mc1_targets": {"choices": ["choice 0", "choice 1"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["choice 0", "choice 1", "choice 2"], "labels": [1, 1, 0]},
    }
    assert chance_level(sample(0.3, 3, doc)) == pytest.approx(2 / 3)
    assert chance_level(sample(1.0, 2, doc)) == pytest.approx(1 / 2)


def test_rows_hold_each_answer_with_its_log_probability() -> None:
    rows = list(sample_rows(RESULTS, "g"))
    assert [row["task"] for row in rows] == ["g_a", "g_b", "g_b"]
    assert rows[0]["answers"][1] == {"text": " choice 1", "logprob": -2.5, "greedy": False}
    assert rows[0]["prompt"] == "Question"


def test_tables_name_the_set_beside_every_score() -> None:
    questions = BenchmarkSet("sample", None, "0" * 64)
    rows = list(score_rows(suite_scores(RESULTS, ["arc_easy", "g"]), questions))
    assert [row["task"] for row in rows] == ["arc_easy (sample)", "g (sample)"]
    assert rows[0]["against chance"] == "not told from chance"
