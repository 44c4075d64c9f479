"""The classifier: hashed word n-grams, weights, and a probability. Its file holds arrays only, no code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.store import Store
from pipelines.curate.classifier.config import ClassifierConfig
from pipelines.curate.phrases import pack_arrays, unpack_arrays

Floats = npt.NDArray[np.float64]
_MOST_ROUNDS = 1000
BINS = 10
"""Bars of the chart of scores."""


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        config: how texts become features.
        idf: inverse document frequency of each bucket; all ones for hashed counts.
        weights: float64[buckets].
        bias: what is added to the weighted sum.
    """

    config: ClassifierConfig
    idf: Floats
    weights: Floats
    bias: float

    @classmethod
    def train(cls, config: ClassifierConfig, good: Sequence[str], bad: Sequence[str]) -> Classifier:
        """Learn to tell good from bad; both kinds weigh the same, however many there are of each."""
        from sklearn.linear_model import LogisticRegression

        blank = cls(config, np.ones(config.buckets), np.zeros(config.buckets), 0.0)
        counts = blank._counts([*good, *bad])
        if config.features == "tfidf":
            documents = np.bincount(counts.indices, minlength=config.buckets)
            idf = np.log((1 + counts.shape[0]) / (1 + documents)) + 1  # smoothed, as scikit-learn does it
            blank = cls(config, idf, blank.weights, 0.0)
        labels = np.array([1] * len(good) + [0] * len(bad))
        model = LogisticRegression(C=config.regularisation, class_weight="balanced", max_iter=_MOST_ROUNDS)
        model.fit(blank._features(counts), labels)
        return cls(config, blank.idf, model.coef_[0].astype(np.float64), float(model.intercept_[0]))

    def scores(self, texts: Sequence[str]) -> Floats:
        """The probability of being good, between 0 and 1, for each text; a text without words gets the bias alone."""
        if not texts:
            return np.zeros(0)
        weighted = self._features(self._counts(texts)) @ self.weights + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(weighted, -500, 500))), np.float64)

    def score(self, text: str) -> float:
        """The score of one text."""
        return float(self.scores([text])[0])

    def to_bytes(self) -> bytes:
        """The weights as one file."""
        return pack_arrays({"idf": self.idf, "weights": self.weights, "bias": np.array([self.bias])})

    @classmethod
    def from_bytes(cls, config: ClassifierConfig, data: bytes) -> Classifier:
        """The classifier that :meth:`to_bytes` gave, with the same configuration."""
        arrays = unpack_arrays(data)
        return cls(config, arrays["idf"], arrays["weights"], float(arrays["bias"][0]))

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(
            n_features=self.config.buckets, ngram_range=(1, self.config.ngram), alternate_sign=False, norm=None
        )

    def _counts(self, texts: Sequence[str]) -> Any:
        """Sparse [texts, buckets] counts of n-grams."""
        counts = self._vectorizer.transform([text[: self.config.characters] for text in texts]).tocsr()
        counts.sum_duplicates()
        return counts

    def _features(self, counts: Any) -> Any:
        """Weighted by rarity where asked for, then every row of length one."""
        from sklearn.preprocessing import normalize

        if self.config.features == "tfidf":
            counts = counts.copy()
            counts.data *= self.idf[counts.indices]
        return normalize(counts)


def score_bin(score: float) -> int:
    """The bar of the chart that a score belongs to."""
    return min(int(score * BINS), BINS - 1)


_LOADED: dict[str, Classifier] = {}


def load_classifier(config: ClassifierConfig, store: Store, key: str) -> Classifier:
    """A classifier from the store, read once by each worker, which keeps only the latest."""
    place = store.uri(key)
    if place not in _LOADED:
        _LOADED.clear()
        _LOADED[place] = Classifier.from_bytes(config, store.read(key))
    return _LOADED[place]
