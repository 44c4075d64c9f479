"""The classifier: hashed word n-grams, weights, and a probability. Its file holds arrays only, no code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.store import Store
from pipelines.curate.classifier.config import ClassifierConfig
from pipelines.curate.phrases import hash_grams, hash_words, pack_arrays, unpack_arrays

Floats = npt.NDArray[np.float64]
_MOST_ROUNDS = 1000
_LARGE = 500.0
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
        from sklearn.preprocessing import normalize

        counts = _count([*good, *bad], config)
        idf = np.ones(config.buckets)
        if config.features == "tfidf":
            documents = np.bincount(counts.indices, minlength=config.buckets)
            idf = np.log((1 + counts.shape[0]) / (1 + documents)) + 1  # smoothed, as scikit-learn does it
        counts.data *= idf[counts.indices]
        labels = np.array([1] * len(good) + [0] * len(bad))
        model = LogisticRegression(C=config.regularisation, class_weight="balanced", max_iter=_MOST_ROUNDS)
        model.fit(normalize(counts), labels)
        return cls(config, idf, model.coef_[0].astype(np.float64), float(model.intercept_[0]))

    def scores(self, texts: Iterable[str]) -> Floats:
        """The score of each text."""
        return np.array([self.score(text) for text in texts], np.float64)

    def score(self, text: str) -> float:
        """The probability of being good, between 0 and 1; that of a text without words is the bias alone."""
        buckets, counts = count_grams(text, self.config)
        values = counts * self.idf[buckets]
        length = math.sqrt(float(values @ values))
        weighted = (float(values @ self.weights[buckets]) / length if length else 0.0) + self.bias
        return 1 / (1 + math.exp(-max(-_LARGE, min(weighted, _LARGE))))

    def worst_runs(self, text: str, most: int) -> list[tuple[int, int]]:
        """The runs of words that speak most against a text, as position and length in words, worst first."""
        words = hash_words(text[: self.config.characters])
        found = []
        for length in range(1, self.config.ngram + 1):
            buckets = (hash_grams(words, length) % np.uint64(self.config.buckets)).astype(np.int64)
            weights = self.idf[buckets] * self.weights[buckets]
            for at in np.argsort(weights, kind="stable")[:most].tolist():
                if weights[at] < 0:
                    found.append((float(weights[at]), at, length))
        return [(at, length) for _, at, length in sorted(found)[:most]]

    def to_bytes(self) -> bytes:
        """The weights as one file."""
        return pack_arrays({"idf": self.idf, "weights": self.weights, "bias": np.array([self.bias])})

    @classmethod
    def from_bytes(cls, config: ClassifierConfig, data: bytes) -> Classifier:
        """The classifier that :meth:`to_bytes` gave, with the same configuration."""
        arrays = unpack_arrays(data)
        return cls(config, arrays["idf"], arrays["weights"], float(arrays["bias"][0]))


def count_grams(text: str, config: ClassifierConfig) -> tuple[npt.NDArray[np.int64], Floats]:
    """The buckets that the n-grams of a text fall into, ascending, and how many fall into each."""
    words = hash_words(text[: config.characters])
    grams = np.concatenate([hash_grams(words, length) for length in range(1, config.ngram + 1)])
    buckets, counts = np.unique(grams % np.uint64(config.buckets), return_counts=True)
    return buckets.astype(np.int64), counts.astype(np.float64)


def _count(texts: Sequence[str], config: ClassifierConfig) -> Any:
    """Sparse float64[texts, buckets] of counts."""
    from scipy.sparse import csr_matrix

    rows = [count_grams(text, config) for text in texts]
    starts = np.cumsum([0, *(len(buckets) for buckets, _ in rows)])
    columns, values = (np.concatenate(each) for each in zip(*rows, strict=True))
    return csr_matrix((values, columns, starts), shape=(len(rows), config.buckets))


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
