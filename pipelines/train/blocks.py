"""Blocks of packed documents as samples of next-token prediction."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.tokens.packing import TokenBlocks
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch


class BlockSamples:
    """A split of a Tokens artifact; every block is a sequence, every token of it but padding is predicted.

    Args:
        isolate: give positions that begin anew with each document. A model that gets such positions and no mask
            lets attention stay within a document (transformers' packed sequences).
    """

    def __init__(self, blocks: TokenBlocks, *, isolate: bool = False) -> None:
        self._blocks = blocks
        self._isolate = isolate

    def __len__(self) -> int:
        return len(self._blocks)

    def batch(self, indices: Indices) -> Batch:
        """Blocks as int64 tensors [n, sequence_length]."""
        indices = indices % len(self)
        tokens = self._blocks.read(indices)
        labels = tokens[:, 1:].copy()
        targets = self._blocks.targets(indices)
        labels[np.arange(labels.shape[1]) >= targets[:, None]] = IGNORED
        further = {"position_ids": torch.from_numpy(self._blocks.positions(indices))} if self._isolate else {}
        return Batch(torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])), torch.from_numpy(labels), further)

    def targets(self, indices: Indices) -> int:
        """Tokens predicted in these blocks."""
        return int(self._blocks.targets(indices % len(self)).sum())
