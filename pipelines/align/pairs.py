"""Preference pairs as batches: the preferred answers' rows first, then the others' in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.finetune.examples.encode import Encoded
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one prompt, each with the prompt's tokens before it."""

    chosen: Encoded
    rejected: Encoded

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))


class PairSamples:
    """Pairs as samples; a batch of n pairs has 2n rows, padded on the right to the longest.

    Padding comes after everything that counts, so that with causal attention nothing sees it.

    Args:
        whole: rows keep their last token, for models that score a text; otherwise it is only a label.
    """

    def __init__(self, pairs: Sequence[EncodedPair], pad_id: int, *, whole: bool = False) -> None:
        self._pairs, self._pad_id, self._whole = pairs, pad_id, whole
        lengths = [len(pair.chosen) + len(pair.rejected) for pair in pairs]
        self._tokens = np.asarray(lengths, np.int64) - (0 if whole else 2)

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, indices: Indices) -> Batch:
        """Labels are the answers' tokens, each where it is predicted."""
        chosen = [self._pairs[int(index) % len(self)] for index in indices]
        rows = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        drop = 0 if self._whole else 1
        length = max(map(len, rows)) - drop
        inputs = torch.full((len(rows), length), self._pad_id, dtype=torch.int64)
        labels = torch.full((len(rows), length), IGNORED, dtype=torch.int64)
        for number, row in enumerate(rows):
            tokens = torch.tensor(row.ids, dtype=torch.int64)
            inputs[number, : len(row) - drop] = tokens[: len(row) - drop]
            learned = torch.tensor(row.learned[1:])
            labels[number, : len(row) - 1] = torch.where(learned, tokens[1:], IGNORED)
        return Batch(inputs, labels)

    def targets(self, indices: Indices) -> int:
        """Pairs: each counts the same, however long it is."""
        return len(indices)

    def tokens_of(self, indices: Indices) -> int:
        """Tokens that the model reads."""
        return int(self._tokens[indices % len(self)].sum())
