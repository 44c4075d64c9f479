"""Masked-language modelling (BERT, arXiv:1810.04805, section 3.1): hide some tokens of a block, predict those.

As in the paper's code a block of n ordinary tokens has exactly ``max(1, round(0.15 n))`` of them predicted. Of those
80 % read as the mask, 10 % as a random token, 10 % as themselves. Which ones is drawn by (seed, visit): anew in every
epoch (RoBERTa, arXiv:1907.11692), and the same for any number of workers and in a resumed run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.tokens.marks import Marks
from pipelines.tokens.packing import TokenBlocks
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch

RATE = 0.15
AS_MASK = 0.8
AS_RANDOM = 0.1

Tokens = np.ndarray[Any, Any]


def masked_count(ordinary: int) -> int:
    """How many of so many ordinary tokens are predicted."""
    return max(1, round(RATE * ordinary)) if ordinary else 0


def mask_tokens(
    tokens: Tokens, ordinary: Tokens, draw: np.random.Generator, mask_id: int, vocab_size: int
) -> tuple[Tokens, Tokens]:
    """Inputs and labels of one sequence.

    Args:
        tokens: ids [length].
        ordinary: which of them may be predicted, bool [length].
    """
    places = np.flatnonzero(ordinary)
    chosen = draw.permutation(places)[: masked_count(len(places))]
    inputs, labels = tokens.copy(), np.full_like(tokens, IGNORED)
    labels[chosen] = tokens[chosen]
    fate = draw.random(len(chosen))
    inputs[chosen[fate < AS_MASK]] = mask_id
    random = chosen[(fate >= AS_MASK) & (fate < AS_MASK + AS_RANDOM)]
    inputs[random] = draw.integers(0, vocab_size, len(random))
    return inputs, labels


class MaskedSamples:
    """A split of a Tokens artifact, each block with some of its tokens hidden.

    Args:
        seed: decides what is hidden.
        isolate: let attention stay within a document, and begin positions anew there.
    """

    def __init__(self, blocks: TokenBlocks, marks: Marks, seed: int, *, isolate: bool = False) -> None:
        assert marks.mask is not None
        self._blocks = blocks
        self._mask_id = marks.mask
        self._special = np.asarray(sorted(marks.special))
        self._seed = seed
        self._isolate = isolate

    def __len__(self) -> int:
        return len(self._blocks)

    def batch(self, indices: Indices) -> Batch:
        """Blocks as int64 tensors [n, sequence_length]."""
        numbers = indices % len(self)
        tokens, ordinary = self._read(numbers)
        pairs = [
            mask_tokens(row, allowed, visit_draw(self._seed, visit), self._mask_id, self._blocks.index.vocab_size)
            for row, allowed, visit in zip(tokens, ordinary, indices, strict=True)
        ]
        inputs, labels = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
        further = {}
        if self._isolate:
            documents = torch.from_numpy(self._blocks.documents(numbers))
            further = {
                "attention_mask": (documents[:, :, None] == documents[:, None, :])[:, None],
                "position_ids": torch.from_numpy(self._blocks.positions(numbers)),
            }
        elif (self._blocks.lengths(numbers) < tokens.shape[1]).any():
            further = {"attention_mask": valid_mask(self._blocks.lengths(numbers), tokens.shape[1])}
        return Batch(inputs, labels, further)

    def targets(self, indices: Indices) -> int:
        """Tokens predicted in these blocks."""
        return sum(masked_count(int(row.sum())) for row in self._read(indices % len(self))[1])

    def tokens_of(self, indices: Indices) -> int:
        """Tokens read in these blocks; a seventh of them is predicted."""
        return int(self._blocks.lengths(indices % len(self)).sum())

    def _read(self, numbers: Indices) -> tuple[Tokens, Tokens]:
        """Tokens, and which of them may be predicted: no marks, unless a block has nothing else."""
        tokens = self._blocks.read(numbers)[:, :-1]
        there = np.arange(tokens.shape[1]) < self._blocks.lengths(numbers)[:, None]
        ordinary = there & ~np.isin(tokens, self._special)
        bare = ~ordinary.any(axis=1)
        ordinary[bare] = there[bare]
        return tokens, ordinary


def visit_draw(seed: int, visit: int) -> np.random.Generator:
    """Random numbers that belong to one visit of one sample."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(visit)]))


def valid_mask(lengths: Tokens, width: int) -> torch.Tensor:
    """True for the first ``lengths[i]`` places of row i; bool [n, width]."""
    return torch.from_numpy(np.arange(width) < np.asarray(lengths)[:, None])
