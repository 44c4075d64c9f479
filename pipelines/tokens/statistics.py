"""Figures about an encoded corpus: fertility, document lengths, unused tokens, and the unigram baseline."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.tokens.encode import EncodedBatch
from pipelines.tokens.packing import TokenBlocks

MARKERS = 2
"""``bos`` and ``eos``, which no text gave."""


@dataclass
class Tally:
    """Documents, bytes, words and text tokens (without ``bos`` and ``eos``) of one source or split."""

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
    """Adds up batches as they are encoded."""

    by_split: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_source: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    lengths: list[int] = field(default_factory=list)

    def add(self, batch: EncodedBatch) -> None:
        """Count one batch."""
        columns = zip(batch.splits, batch.sources, batch.text_bytes, batch.words, batch.lengths, strict=True)
        for split, source, text_bytes, words, length in columns:
            for tally in (self.by_split[split], self.by_source[source]):
                tally.documents += 1
                tally.text_bytes += int(text_bytes)
                tally.words += int(words)
                tally.text_tokens += int(length) - MARKERS
            self.lengths.append(int(length))

    def length_histogram(self) -> dict[str, int]:
        """Documents by length, in powers of two of tokens."""
        if not self.lengths:
            return {}
        powers = np.ceil(np.log2(np.maximum(np.asarray(self.lengths), 2))).astype(int)
        counts = np.bincount(powers)
        first = int(powers.min())
        return {f"≤ {1 << power:,} tokens": int(counts[power]) for power in range(first, len(counts))}


def token_counts(blocks: TokenBlocks, vocab_size: int) -> np.ndarray[Any, Any]:
    """How often each token occurs in a split."""
    return np.bincount(blocks.stream(), minlength=vocab_size)


def unigram_loss(train: np.ndarray[Any, Any], validation: np.ndarray[Any, Any]) -> float:
    """Mean loss in nats a token of predicting each validation token by its share of the training tokens (add-one)."""
    share = (train + 1) / (train.sum() + len(train))
    total = int(validation.sum())
    return float(-(validation * np.log(share)).sum() / total) if total else math.nan
