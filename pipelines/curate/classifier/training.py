"""Training on the driver, measuring on what was held out, and the section of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from cluster.charts import Histogram
from cluster.report import Page
from cluster.stage import StageContext
from pipelines.curate.classifier.config import ClassifierConfig
from pipelines.curate.classifier.examples import Examples, read_examples
from pipelines.curate.classifier.model import BINS, Classifier
from pipelines.curate.config import CurateConfig

MEASURES = ("accuracy", "precision", "recall", "f1")
_USUAL_THRESHOLD = 0.5


@dataclass(frozen=True)
class Quality:
    """How well the held-out examples were told apart at the threshold; good is what is looked for."""

    train_good: int
    train_bad: int
    held_out_good: int
    held_out_bad: int
    unusable: int
    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float

    def metrics(self) -> dict[str, float]:
        """For the artifact's record."""
        return {f"classifier.{name}": getattr(self, name) for name in MEASURES}


@dataclass(frozen=True)
class Trained:
    """The classifier's file in the store, where workers read it, and how good it is."""

    key: str
    quality: Quality


def train_classifier(config: CurateConfig, context: StageContext, key: str) -> Trained | None:
    """Train the recipe's classifier, if it has one, and write it under a key of the store.

    Raises:
        UserError: there are too few examples, or none.
    """
    if config.classifier is None:
        return None
    with context.progress.step("train the classifier"):
        good, bad = read_examples(config.classifier, config.normalise)
        classifier = Classifier.train(config.classifier, good.train, bad.train)
        quality = measure(classifier, good, bad)
        context.store.write(key, classifier.to_bytes())
    return Trained(key, quality)


def measure(classifier: Classifier, good: Examples, bad: Examples) -> Quality:
    """Accuracy, precision, recall and F1 on the held-out examples."""
    threshold = _threshold(classifier.config)
    taken_good = int(np.sum(classifier.scores(good.held_out) >= threshold))
    taken_bad = int(np.sum(classifier.scores(bad.held_out) >= threshold))
    total = len(good.held_out) + len(bad.held_out)
    taken = taken_good + taken_bad
    return Quality(
        len(good.train),
        len(bad.train),
        len(good.held_out),
        len(bad.held_out),
        good.unusable + bad.unusable,
        threshold,
        (taken_good + len(bad.held_out) - taken_bad) / total,
        taken_good / taken if taken else 0.0,
        taken_good / len(good.held_out),
        2 * taken_good / (taken + len(good.held_out)),
    )


def _threshold(config: ClassifierConfig) -> float:
    return _USUAL_THRESHOLD if config.threshold is None else config.threshold


def classifier_section(page: Page, quality: Quality, before: Counter[int], after: Counter[int]) -> None:
    """What the classifier learned from, how well it does, and the scores of the documents that it judged.

    Args:
        before, after: column of the plot -> documents that it judged, and those of them that were kept.
    """
    page.heading("Quality classifier")
    page.paragraph(
        f"Trained on {quality.train_good:,} good and {quality.train_bad:,} bad examples ({quality.unusable:,} more "
        f"could not be used); measured on {quality.held_out_good:,} good and {quality.held_out_bad:,} bad ones "
        f"that it never saw, at a score of {quality.threshold:g}."
    )
    page.table([{name: f"{getattr(quality, name):.3f}" for name in MEASURES}])
    labels = [f"{number / BINS:.1f}" for number in range(BINS)]
    series = {name: [each[number] for number in range(BINS)] for name, each in (("before", before), ("after", after))}
    limit = [(quality.threshold * BINS, f"measured at {quality.threshold:g}")]
    axis = "score, from the number shown up to the next"
    title = "Scores of the documents that passed the rules"
    page.histogram(title, Histogram(labels, series, axis, "documents", limit))
