"""Figures about an encoded corpus: fertility, document lengths, unused tokens, and the unigram baseline."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.tokens.encode import EncodedBatch
from pipelines.tokens.packing import TokenBlocks


@dataclass
class Tally:
    """Documents, bytes, words and text tokens (without ``bos`` and ``eos``) of one source, language or split."""

    documents: int = 0
    text_bytes: int = 0
    words: int = 0
    text_tokens: int = 0

    def row(self, name: str) -> dict[str, Any]:
        """The tally with its ratios, as a table's row."""
        return {
            "name": name,
            "documents": self.documents,
            "tokens": self.text_tokens,
            "tokens per word": self.text_tokens / max(self.words, 1),
            "bytes per token": self.text_bytes / max(self.text_tokens, 1),
        }


@dataclass
class CorpusStatistics:
    """Adds up batches as they are encoded.

    Attributes:
        by_power: documents of at most 2^power tokens, and more than half of it.
    """

    by_split: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_source: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_language: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_power: Counter[int] = field(default_factory=Counter)

    def add(self, batch: EncodedBatch) -> None:
        """Count one batch."""
        for tallies, names in (
            (self.by_split, batch.splits),
            (self.by_source, batch.sources),
            (self.by_language, [language or "unknown" for language in batch.languages]),
        ):
            kinds, places = np.unique(np.asarray(names, object).astype(str), return_inverse=True)
            counts = np.bincount(places)
            sums = [
                np.bincount(places, weights=column).astype(np.int64)
                for column in (batch.text_bytes, batch.words, batch.lengths - batch.around)
            ]
            for kind, documents, text_bytes, words, tokens in zip(kinds, counts, *sums, strict=True):
                tally = tallies[str(kind)]
                tally.documents += int(documents)
                tally.text_bytes += int(text_bytes)
                tally.words += int(words)
                tally.text_tokens += int(tokens)
        powers = np.ceil(np.log2(np.maximum(batch.lengths, 2))).astype(int)
        for power, documents in enumerate(np.bincount(powers)):
            self.by_power[power] += int(documents)

    def length_histogram(self) -> dict[str, int]:
        """Documents by length, in powers of two of tokens."""
        powers = [power for power, documents in self.by_power.items() if documents]
        if not powers:
            return {}
        return {f"≤ {1 << power:,} tokens": self.by_power[power] for power in range(min(powers), max(powers) + 1)}


def token_counts(blocks: TokenBlocks, vocab_size: int) -> np.ndarray[Any, Any]:
    """How often each token occurs in a split."""
    return np.bincount(blocks.stream(), minlength=vocab_size)


def rank_frequency(counts: np.ndarray[Any, Any], points: int = 60) -> list[tuple[float, float]]:
    """(log10 of rank, log10 of occurrences), tokens by falling frequency: a straight line where words follow Zipf."""
    falling = np.sort(counts[counts > 0])[::-1]
    if not len(falling):
        return []
    ranks = np.unique(np.geomspace(1, len(falling), points).astype(int))
    return [(float(np.log10(rank)), float(np.log10(falling[rank - 1]))) for rank in ranks]


def unigram_loss(train: np.ndarray[Any, Any], validation: np.ndarray[Any, Any]) -> float:
    """Mean loss in nats a token of predicting each validation token by its share of the training tokens (add-one)."""
    share = (train + 1) / (train.sum() + len(train))
    total = int(validation.sum())
    return float(-(validation * np.log(share)).sum() / total) if total else math.nan
