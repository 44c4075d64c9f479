"""A sample gives every question the same chance, every task its share, and the same questions for the same seed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.errors import UserError
from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.intervals import wilson
from evals.results import sample_rows, suite_scores
from evals.sampling import draw
from evals.tasks import load_tasks, quick_and_quiet, sampled_questions

from .conftest import write_benchmarks
from .hash_lm import HashLM

SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=1)


@given(SIZES, st.integers(1, 500), st.integers(0, 99))
def test_every_task_has_its_share_up_to_rounding(sizes: dict[str, int], count: int, seed: int) -> None:
    total = sum(sizes.values())
    assume(len(sizes) == 1 or count >= math.ceil(total / min(sizes.values())))
    drawn = draw(sizes, count, seed, "suite")
    assert sum(map(len, drawn.values())) == min(count, total)
    for task, places in drawn.items():
        assert places == sorted(set(places))
        assert all(0 <= place < sizes[task] for place in places)
        assert abs(len(places) - min(count, total) * sizes[task] / total) < 1 + 1e-9
        assert places
    assert drawn == draw(sizes, count, seed, "suite")


def test_every_question_is_drawn_equally_often() -> None:
    sizes, count, rounds = {"a": 30, "b": 7, "c": 13}, 10, 4000
    drawn = Counter(
        (task, place) for seed in range(rounds) for task, p in draw(sizes, count, seed, "s").items() for place in p
    )
    expected = rounds * count / 50
    spread = math.sqrt(expected * (1 - count / 50))
    assert len(drawn) == 50
    assert all(abs(times - expected) < 4.5 * spread for times in drawn.values())


def test_intervals_of_samples_cover_the_whole_sets_score() -> None:
    """Two tasks of different difficulty; 95 % intervals of the mean from samples of 60 out of 600."""
    right = {"easy": [number % 10 < 8 for number in range(400)], "hard": [number % 10 < 3 for number in range(200)]}
    truth = statistics.fmean(value for values in right.values() for value in values)
    covered = 0
    for seed in range(1000):
        drawn = draw({task: len(values) for task, values in right.items()}, 60, seed, "s")
        values = [right[task][place] for task, places in drawn.items() for place in places]
        low, high = wilson(sum(values), len(values))
        covered += low <= truth <= high
    assert covered / 1000 >= 0.95


def test_another_seed_draws_others_and_a_tasks_own_order_is_not_the_files() -> None:
    sizes = {"a": 200, "b": 200}
    assert draw(sizes, 40, 1, "s") != draw(sizes, 40, 2, "s")
    assert draw(sizes, 40, 1, "s")["a"] != list(range(20))


def test_a_sample_that_could_miss_a_task_is_refused_with_the_least_that_does_not() -> None:
    with pytest.raises(UserError, match=r"at least 11 of its 110"):
        draw({"a": 100, "b": 10}, 10, 0, "s")
    assert len(draw({"a": 100, "b": 10}, 11, 0, "s")["b"]) == 1


def test_an_evaluation_asks_just_the_sample_and_scores_it_as_the_stock_harness_scores_those(tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate

    suites = ("mmlu", "truthfulqa_mc2")
    root = write_benchmarks(tmp_path / "set", suites, rows=4)
    config = EvalsConfig(benchmarks=str(root), suites=suites, sample=100)
    with quick_and_quiet():
        loaded = load_tasks(open_benchmarks(config), config)
        samples = sampled_questions(loaded, config)
        found = dict(evaluate(HashLM(), loaded, samples=samples))
    assert samples is not None
    assert len(samples) == 58
    assert {len(samples[name]) for name in samples if name.startswith("mmlu")} == {1, 2}
    assert samples["truthfulqa_mc2"] == [0, 1, 2, 3]  # fewer than asked for: all
    mmlu = suite_scores(found, suites)["mmlu"]["acc"]
    rows = list(sample_rows(found, "mmlu"))
    assert sorted((row["task"], row["doc_id"]) for row in rows) == sorted(
        (task, number) for task, numbers in samples.items() if task.startswith("mmlu") for number in numbers
    )
    assert mmlu["n"] == len(rows) == 100
    right = sum(row["metrics"]["acc"] for row in rows)
    assert mmlu["score"] == pytest.approx(right / 100)
    assert mmlu["interval_95"] == pytest.approx(wilson(right, 100))
    again = EvalsConfig(
        benchmarks=str(root), suites=("truthfulqa_mc2", "mmlu"), sample=100, num_fewshot=2, batch_size=1
    )
    assert sampled_questions(loaded, again) == samples  # two models get the same questions
    assert sampled_questions(loaded, again.model_copy(update={"seed": 7})) != samples
