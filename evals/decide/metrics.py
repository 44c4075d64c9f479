"""Which of a suite's metrics decides, and which way is up."""

from __future__ import annotations

from collections.abc import Collection, Iterable

HEADLINES = {
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "truthfulqa_gen": "bleu_acc",
    "crows_pairs_english": "pct_stereotype",
}
"""The metric that published tables quote, where it is not the first of PREFERRED."""

PREFERRED = ("acc", "exact_match", "f1", "correct", "acc_norm", "bits_per_byte")
LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "loss", "ratio", "contamination", "stderr", "likelihood_diff")


def headline_metric(suite: str, metrics: Collection[str]) -> str:
    """The one metric by which a suite is judged unless somebody names another.

    Args:
        metrics: those that there are; at least one.
    """
    wanted = (HEADLINES.get(suite), *PREFERRED)
    return next((metric for metric in wanted if metric in metrics), min(metrics))


def higher_is_better(metric: str) -> bool:
    """Whether more of it is better; a perplexity and its kin are better when they are smaller."""
    return not any(part in metric for part in LOWER_IS_BETTER)


def common(first: Iterable[str], second: Collection[str]) -> list[str]:
    """What is in both, in the order of the first."""
    return [name for name in first if name in second]
