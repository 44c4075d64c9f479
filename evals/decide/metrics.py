"""Which of a suite's metrics decides, and which way is up."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from evals.presets import PRESETS

HEADLINES = {
    "hellaswag": "acc_norm",
    "truthfulqa_gen": "bleu_acc",
    **{suite: metric for preset in PRESETS.values() for suite, metric in preset.headline.items()},
}
"""The metric that published tables quote, where it is not the first of the preferred ones."""

PREFERRED = ("acc", "exact_match", "f1", "correct", "acc_norm", "bits_per_byte")
LOWER_IS_BETTER = (
    "perplexity",
    "bits_per_byte",
    "loss",
    "contamination",
    "likelihood_diff",
    "brier",
    "error",
    "distance",
)
LOWER_IS_BETTER_WORDS = {"wer", "cer", "ter", "mae", "mse", "rmse", "ratio"}
"""As whole words only: "answer" holds wer, "certainty" cer, and "generation" ratio."""

NO_SIDE_IS_BETTER = ("stereotype",)
"""Whatever the task says: lm-eval calls a smaller share of stereotypes better, and a half is fair."""

NO_SIDE_BY_NAME = ("length",)

Sides = dict[str, dict[str, bool | None]]
"""suite or task -> metric -> whether more is better; None where the tasks of a suite disagree."""


def headline_metric(suite: str, metrics: Collection[str]) -> str:
    """The one metric by which a suite is judged unless somebody names another.

    Args:
        metrics: those that there are; at least one.
    """
    wanted = (HEADLINES.get(suite, ""), *PREFERRED)
    return next((metric for metric in wanted if metric in metrics), min(metrics))


def direction(metric: str, told: Mapping[str, bool | None] | None = None) -> int:
    """1 where more is better, -1 where less is (a perplexity and its kin), 0 where neither is.

    Args:
        told: what the task itself says (``higher_is_better``); where it says nothing the metric's name tells.
    """
    if any(part in metric for part in NO_SIDE_IS_BETTER):
        return 0
    said = metric.partition("@")[0]
    if told is not None and said in told:
        return 0 if told[said] is None else 1 if told[said] else -1
    if any(part in metric for part in NO_SIDE_BY_NAME):
        return 0
    lower = any(part in metric for part in LOWER_IS_BETTER)
    return -1 if lower or LOWER_IS_BETTER_WORDS & {*re.split("[^a-z]+", metric.lower())} else 1


def sides(told: Mapping[str, Mapping[str, bool | None]], leaves: Mapping[str, Sequence[str]]) -> Sides:
    """What tasks say of their metrics (lm-eval's ``higher_is_better``), for suites and each of their tasks.

    Args:
        told: task -> metric -> whether more is better; None where lm-eval does not know.
        leaves: suite -> its tasks.
    """
    found: Sides = {}
    for suite, tasks in leaves.items():
        for task in tasks:
            own = {metric: more for metric, more in told.get(task, {}).items() if more is not None}
            if task != suite:
                found.setdefault(task, {}).update(own)
            of_suite = found.setdefault(suite, {})
            for metric, more in own.items():
                of_suite[metric] = more if of_suite.get(metric, more) == more else None
    return found


def common(first: Iterable[str], second: Collection[str]) -> list[str]:
    """What is in both, in the order of the first."""
    return [name for name in first if name in second]
