"""lm-eval's results in Raymill's shape: every score with its error, interval, number of questions and chance level."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.errors import InternalError
from evals.intervals import interval, normal

Scores = dict[str, dict[str, Any]]
"""metric -> {score, stderr, interval_95, chance, n}."""

CHANCE_METRICS = ("acc", "acc_norm", "acc_bytes")
"""What a guess between choices would score is known for these."""


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
    samples = [sample for task in leaf_tasks(results, name) for sample in results["samples"].get(task, ())]
    row = results["results"].get(name) or results.get("groups", {}).get(name) or {}
    chance = _chance(samples, [results.get("configs", {}).get(task) or {} for task in leaf_tasks(results, name)])
    scores: Scores = {}
    nothing_asked: list[str] = []
    for key, value in row.items():
        metric, comma, choice = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        error = row.get(f"{metric}_stderr,{choice}")
        stderr = float(error) if isinstance(error, (int, float)) and math.isfinite(error) else None
        own = [sample for sample in samples if sample.get("filter", choice) == choice and metric in sample]
        values = [float(sample[metric]) for sample in own if _is_number(sample[metric])]
        if stderr is None and len(values) > 1:  # a group whose every task has an error of its own has one from lm-eval
            stderr = math.sqrt(statistics.variance(values) / len(values))
        if not values and math.isnan(value):
            nothing_asked.append(metric)  # BBQ's score of a category of which --limit or --sample asked no question
            continue
        score = _finite(float(value), f"{name}.{metric}")
        bounds = interval(values, score, stderr) if values else (normal(score, stderr) if stderr is not None else None)
        scores[_label(metric, choice)] = {
            "score": score,
            "stderr": stderr,
            "interval_95": list(bounds) if bounds else None,
            "chance": chance if metric in CHANCE_METRICS else None,
            "n": len(own),
        }
    if nothing_asked and not scores:
        _finite(math.nan, f"{name}.{nothing_asked[0]}")
    return scores


def _label(metric: str, choice: str) -> str:
    """The metric, and where a task reads its answers in several ways, which of them it is."""
    return metric if choice == "none" else f"{metric}@{choice}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or type(value).__module__ == "numpy"


def _chance(samples: Sequence[Mapping[str, Any]], configs: Iterable[Mapping[str, Any]]) -> float | None:
    """What guessing would score; None for texts that are written freely, and where a task counts in its own way.

    Args:
        configs: of the tasks; ``process_results`` is the own way. TruthfulQA's is known.
    """
    if not samples or any(len(sample["arguments"]) < 2 for sample in samples):
        return None
    if any(config.get("process_results") for config in configs) and not all("mc2_targets" in s["doc"] for s in samples):
        return None
    return math.fsum(map(chance_level, samples)) / len(samples)


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
    """One row a question, in order.

    ``doc_hash`` is the same wherever the same question was asked. A question with choices has ``answers``, each with
    its log-probability; one that is answered freely has ``output``. ``metrics`` holds this question's value of each
    metric that has one (a corpus-level metric such as BLEU has none).
    """
    for task in leaf_tasks(results, suite):
        rows: dict[int, dict[str, Any]] = {}
        for sample in results["samples"].get(task, ()):
            row = rows.setdefault(sample["doc_id"], _row(task, sample))
            for metric in sample["metrics"]:
                if _is_number(sample[metric]):
                    row["metrics"][_label(metric, sample.get("filter", "none"))] = float(sample[metric])
        yield from rows.values()


def _row(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task": task,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "doc": sample["doc"],
        "target": sample["target"],
        "prompt": sample["arguments"][0][0],
        "metrics": {},
    }
    if len(sample["arguments"][0]) > 1 and isinstance(sample["arguments"][0][1], str):
        row["answers"] = [
            {"text": arguments[1], "logprob": float(response[0]), "greedy": bool(response[1])}
            for arguments, response in zip(sample["arguments"], sample["filtered_resps"], strict=True)
        ]
    else:
        row["output"] = str(sample["resps"][0][0])
    return row
