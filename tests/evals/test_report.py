"""An evaluation's page: bars with intervals, a picture of MMLU's subjects, what it took, and how to ask it again."""

from __future__ import annotations

import html
import re
from typing import Any

from evals.benchmarks import BenchmarkSet
from evals.report import build_report

SET = BenchmarkSet("mirror", None, "0" * 64)
SUBJECTS = [f"mmlu_subject_{number:02d}" for number in range(57)]


def scores(score: float) -> dict[str, Any]:
    bounds = [score - 0.05, score + 0.05]
    return {"acc": {"score": score, "stderr": 0.025, "interval_95": bounds, "chance": 0.25, "n": 100}}


def results() -> dict[str, Any]:
    suites = {"arc_challenge": 25, "mmlu": 5}
    settings = {"suites": [*suites], "num_fewshot": suites, "limit": None, "sample": 500, "batch_size": 8, "seed": 7}
    return {
        "tasks": {"arc_challenge": scores(0.3), "mmlu": scores(0.4)},
        "subtasks": {"mmlu": {name: scores(0.2 + 0.01 * place) for place, name in enumerate(SUBJECTS)}},
        "settings": settings,
        "model": {"id": "team/base", "folder": "/models/base"},
        "requests": 4000,
        "truncated_requests": 12,
        "truncated_by_task": {"mmlu_subject_03": 12},
        "context_tokens": 512,
    }


def charts(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def test_what_the_page_shows() -> None:
    account = {"requests": 400, "input_tokens": 12_345, "output_tokens": 0, "seconds": 9.5, "cost": 0.02}
    usage = {"seconds": 61.5, "workers": 2, "cost": 0.0425, "prices": {"worker_hour": 1.25}, "tasks": {"mmlu": account}}
    page = build_report("Evaluation of base", SET, results(), {}, usage).render()
    suites, subjects = charts(page)
    assert "arc_challenge (mirror) acc" in suites and "mmlu (mirror) acc" in suites
    assert suites.count("<path") == 2  # the intervals
    assert subjects.count("<path") == 57
    places = [subjects.index(name) for name in reversed(SUBJECTS)]
    assert places == sorted(places)  # the best first
    for name in SUBJECTS:
        assert f"{name} (mirror)" in page
    for words in (
        "0.250 to 0.350",
        "above chance",
        "A random sample of 500 questions of each suite was asked",
        "12 of 4,000 requests were longer than the model's context of 512 tokens",
        "(mmlu_subject_03 12)",
        "0.0425",
        "12,345",
        "nobody has looked for these questions",
    ):
        assert words in html.unescape(page), words
    commands = re.findall(r"lm_eval --model hf[^\n<]*", html.unescape(page))
    assert ["--num_fewshot 25" in each or "--num_fewshot 5" in each for each in commands] == [True, True]


def test_without_prices_no_cost_is_claimed() -> None:
    account = {"requests": 400, "input_tokens": 12_345, "output_tokens": 0, "seconds": 9.5, "cost": 0.0}
    usage = {"seconds": 61.5, "workers": 2, "cost": 0.0, "prices": {"worker_hour": 0.0}, "tasks": {"mmlu": account}}
    page = build_report("Evaluation of base", SET, results(), {}, usage).render()
    assert "evals.prices adds the cost" in page
    assert "<th>cost" not in page
