"""lm-eval's results in Raymill's shape: every score with its error, interval, number of questions and chance level."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import InternalError
from evals.intervals import interval

Scores = dict[str, dict[str, Any]]
"""metric -> {score, stderr, interval_95, chance, n}."""


def suite_scores(results: Mapping[str, Any], suites: Iterable[str]) -> dict[str, Scores]:
    """Scores of each suite; a group (mmlu) is scored over all of its questions.

    Raises:
        InternalError: a score is not a finite number. TruthfulQA's mc2 divides by the probability of all answers, and
            that is 0 where every one of them underflows.
    """
    return {suite: _scores(results, suite) for suite in suites}


def subtask_scores(results: Mapping[str, Any], suites: Iterable[str]) -> dict[str, dict[str, Scores]]:
    """suite -> task -> scores, for suites that consist of several tasks."""
    return {
        suite: {task: _scores(results, task) for task in leaves}
        for suite in suites
        if (leaves := leaf_tasks(results, suite)) != [suite]
    }


def leaf_tasks(results: Mapping[str, Any], name: str) -> list[str]:
    """The tasks below a group, in name order; of a task, itself."""
    children = results.get("group_subtasks", {}).get(name)
    if not children:
        return [name]
    return sorted(leaf for child in children for leaf in leaf_tasks(results, child))


def _scores(results: Mapping[str, Any], name: str) -> Scores:
    samples = [sample for task in leaf_tasks(results, name) for sample in results["samples"][task]]
    row = results["results"].get(name) or results["groups"][name]
    scores: Scores = {}
    for key, value in row.items():
        metric, comma, _ = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = row.get(key.replace(metric, f"{metric}_stderr", 1))
        stderr = float(error) if isinstance(error, (int, float)) and math.isfinite(error) else None
        values = [float(sample[metric]) for sample in samples]
        score = _finite(float(value), f"{name}.{metric}")
        bounds = interval(values, score, stderr)
        scores[metric] = {
            "score": score,
            "stderr": stderr,
            "interval_95": list(bounds) if bounds else None,
            "chance": math.fsum(map(chance_level, samples)) / len(samples),
            "n": len(samples),
        }
    return scores


def _finite(score: float, where: str) -> float:
    if not math.isfinite(score):
        raise InternalError(
            f"the score is {score}, not a number",
            where=where,
            next_step="look at this task's answers: the model gives each of them a probability of 0 or none at all; "
            "a model that is trained further, or the task left out of evals.suites, gets past it",
        )
    return score


def chance_level(sample: Mapping[str, Any]) -> float:
    """What one question gives without knowledge: the share of its choices that are right.

    TruthfulQA's mc2 has several right choices and asks for their probability; elsewhere one choice is right.
    """
    labels = sample["doc"].get("mc2_targets", {}).get("labels", [])
    if labels and len(labels) == len(sample["arguments"]):
        return sum(labels) / len(labels) if _is_mean_probability(sample) else 1 / len(labels)
    return 1 / len(sample["arguments"])


def _is_mean_probability(sample: Mapping[str, Any]) -> bool:
    """Whether the question was scored by mc2: its choices are mc2's, not mc1's."""
    choices = [f" {choice}" for choice in sample["doc"]["mc2_targets"]["choices"]]
    return choices == [argument[1] for argument in sample["arguments"]]


def metric_values(scores: Mapping[str, Scores]) -> dict[str, float]:
    """``arc_easy.acc`` and ``arc_easy.acc_stderr`` for every suite and metric, for the artifact's record."""
    values: dict[str, float] = {}
    for suite, metrics in scores.items():
        for metric, figures in metrics.items():
            values[f"{suite}.{metric}"] = figures["score"]
            if figures["stderr"] is not None:
                values[f"{suite}.{metric}_stderr"] = figures["stderr"]
    return values


def sample_rows(results: Mapping[str, Any], suite: str) -> Iterable[dict[str, Any]]:
    """One row a question, in order: the prompt, each answer's log-probability, what was right, and the metrics."""
    for task in leaf_tasks(results, suite):
        for sample in results["samples"][task]:
            yield {
                "task": task,
                "doc_id": sample["doc_id"],
                "doc_hash": sample["doc_hash"],
                "doc": sample["doc"],
                "target": sample["target"],
                "prompt": sample["arguments"][0][0],
                "answers": [
                    {"text": arguments[1], "logprob": float(response[0]), "greedy": bool(response[1])}
                    for arguments, response in zip(sample["arguments"], sample["filtered_resps"], strict=True)
                ],
                "metrics": {metric: float(sample[metric]) for metric in sample["metrics"]},
            }
