"""How good predicted labels are: accuracy, precision, recall, F1 and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelScore:
    """Of one label. A share of nothing is 0, as scikit-learn's ``zero_division=0`` has it.

    Attributes:
        support: texts that have it.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Of all labels.

    Attributes:
        confusion: row: the label that a text has; column: the one that it was given.
        majority: the accuracy of always naming the most frequent label.
    """

    labels: tuple[str, ...]
    accuracy: float
    majority: float
    precision: float
    recall: float
    f1: float
    by_label: tuple[LabelScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Name -> value: the means over labels that occur (macro), and each label's own."""
        found = {
            "accuracy": self.accuracy,
            "majority_accuracy": self.majority,
            "precision_macro": self.precision,
            "recall_macro": self.recall,
            "f1_macro": self.f1,
        }
        for label, score in zip(self.labels, self.by_label, strict=True):
            found |= {
                f"precision.{label}": score.precision,
                f"recall.{label}": score.recall,
                f"f1.{label}": score.f1,
            }
        return {f"{prefix}.{name}": value for name, value in found.items()}


def score(true: Sequence[int], given: Sequence[int], labels: Sequence[str]) -> Scores:
    """Scores of predicted numbers against true ones.

    Macro means are over the labels that a text has or was given, as scikit-learn takes them by default.
    """
    count = len(labels)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (np.asarray(true, np.int64), np.asarray(given, np.int64)), 1)
    hits, have, got = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    by_label = tuple(
        LabelScore(
            _share(hits[n], got[n]), _share(hits[n], have[n]), _share(2 * hits[n], have[n] + got[n]), int(have[n])
        )
        for n in range(count)
    )
    present = [each for each, some in zip(by_label, have + got, strict=True) if some]
    total = int(confusion.sum())
    return Scores(
        labels=tuple(labels),
        accuracy=_share(hits.sum(), total),
        majority=_share(have.max(initial=0), total),
        precision=_mean([each.precision for each in present]),
        recall=_mean([each.recall for each in present]),
        f1=_mean([each.f1 for each in present]),
        by_label=by_label,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
    )


def _share(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
