"""Which of a suite's metrics decides, and which way is up."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from evals.presets import PRESETS

HEADLINES = {
    "hellaswag": "acc_norm",
    **{suite: metric for preset in PRESETS.values() for suite, metric in preset.headline.items()},
}
"""The metric that published tables quote, where it is not the first of the preferred ones."""

PREFERRED = ("acc", "exact_match", "f1", "correct", "acc_norm", "bits_per_byte")
LOWER_IS_BETTER = (
    "perplexity",
    "bits_per_byte",
    "loss",
    "ratio",
    "contamination",
    "likelihood_diff",
    "brier",
    "error",
    "distance",
)
LOWER_IS_BETTER_WORDS = {"wer", "cer", "ter", "mae", "mse", "rmse"}
"""As whole words only: "answer" holds wer, and "certainty" cer."""

NO_SIDE_IS_BETTER = ("stereotype", "length")


def headline_metric(suite: str, metrics: Collection[str]) -> str:
    """The one metric by which a suite is judged unless somebody names another.

    Args:
        metrics: those that there are; at least one.
    """
    wanted = (HEADLINES.get(suite, ""), *PREFERRED)
    return next((metric for metric in wanted if metric in metrics), min(metrics))


def direction(metric: str) -> int:
    """1 where more is better, -1 where less is (a perplexity and its kin), 0 where neither is."""
    if any(part in metric for part in NO_SIDE_IS_BETTER):
        return 0
    lower = any(part in metric for part in LOWER_IS_BETTER)
    return -1 if lower or LOWER_IS_BETTER_WORDS & {*re.split("[^a-z]+", metric.lower())} else 1


def common(first: Iterable[str], second: Collection[str]) -> list[str]:
    """What is in both, in the order of the first."""
    return [name for name in first if name in second]
