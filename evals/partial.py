"""Scores over the questions that were answered, where an endpoint died before the last one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

Unanswered = Collection[tuple[str, int]]
"""(task, which of its questions) of every question that has at least one request without an answer."""

BOOTSTRAP_ROUNDS = 100_000
"""lm-eval's own default."""


def restrict(scores: Mapping[str, Any], loaded: Any, unanswered: Unanswered) -> dict[str, Any]:
    """lm-eval's results again, from the samples of the answered questions only.

    Args:
        scores: what ``evaluate`` gave, with placeholders for the missing answers.
        loaded: the TaskDict.
    """
    from lm_eval.evaluator_utils import _process_results

    kept: dict[str, Any] = {}
    for name, samples in scores["samples"].items():
        own = [sample for sample in samples if (name, sample["doc_id"]) not in unanswered]
        if not own:
            continue
        values: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for sample in own:
            for metric in sample["metrics"]:
                values[metric, sample["filter"]].append(sample[metric])
        kept[name] = {"task": loaded["tasks"][name], "raw_metrics": values, "logged_samples": own}
    done = _process_results(kept, loaded.get("groups", {}), BOOTSTRAP_ROUNDS)
    return dict(done._to_eval_results(samples=done.samples))


def count(unanswered: Unanswered, scores: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Task -> how many of its questions have no answer, and how many were asked; tasks that have all are left out."""
    missing = Counter(task for task, _ in unanswered)
    return {
        task: (count, len({sample["doc_id"] for sample in scores["samples"][task]}))
        for task, count in sorted(missing.items())
    }


def explain(missing: Mapping[str, tuple[int, int]], reason: str) -> str:
    """What is missing, in words: of what :func:`count` gives, held-out sets among it."""
    parts = [f"{name} {count:,} of {asked:,}" for name, (count, asked) in missing.items()]
    return f"the endpoint stopped answering ({reason}); questions without an answer: {', '.join(parts)}"
