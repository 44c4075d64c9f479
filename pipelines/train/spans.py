"""Span corruption (T5, arXiv:1910.10683, section 3.1.4): leave spans out of a block, and write what they held.

The input keeps what was not left out, a sentinel in each span's place, and ends with ``eos``; the target is each
sentinel followed by its span's tokens, and ends with ``eos``. As in the paper's code 15 % of a block's tokens are left
out, in spans of 3 on average, and blocks begin with text; the lengths are the same for every block of one length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.tokens.marks import Marks
from pipelines.tokens.packing import TokenBlocks
from pipelines.train.corruption import check_sentinels, noise_counts, target_length
from pipelines.train.masked import valid_mask, visit_draw
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch

Tokens = np.ndarray[Any, Any]


def noise_mask(length: int, draw: np.random.Generator) -> Tokens:
    """Which tokens are left out, bool [length]: lengths of spans, and of what is between them, are drawn evenly."""
    noise, spans = noise_counts(length)
    lengths = np.stack([_parts(length - noise, spans, draw), _parts(noise, spans, draw)], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _parts(total: int, count: int, draw: np.random.Generator) -> Tokens:
    """``total`` cut into ``count`` parts of at least 1, every way of it as likely."""
    cuts = np.sort(draw.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt(tokens: Tokens, noise: Tokens, sentinels: Tokens, eos_id: int) -> tuple[Tokens, Tokens]:
    """Input and target of one sequence.

    Args:
        tokens: ids [length].
        noise: which are left out, bool [length]; the first never is.
        sentinels: ids, at least as many as there are spans.
    """
    return _collapse(tokens, noise, sentinels, eos_id), _collapse(tokens, ~noise, sentinels, eos_id)


def _collapse(tokens: Tokens, hidden: Tokens, sentinels: Tokens, eos_id: int) -> Tokens:
    """The tokens that are not hidden, each run of hidden ones as a sentinel."""
    begins = hidden & ~np.concatenate([[False], hidden[:-1]])
    result = tokens.copy()
    result[begins] = sentinels[: begins.sum()]
    return np.append(result[~hidden | begins], eos_id)


class SpanSamples:
    """A split of a Tokens artifact, each block with spans left out.

    Args:
        seed: decides which.

    Raises:
        UserError: the tokenizer has fewer sentinels than a block has spans.
    """

    def __init__(self, blocks: TokenBlocks, marks: Marks, seed: int) -> None:
        self._blocks = blocks
        self._marks = marks
        self._seed = seed
        self._sentinels = np.asarray(marks.sentinels, np.int64)
        check_sentinels(blocks.index.sequence_length, len(marks.sentinels))

    def __len__(self) -> int:
        return len(self._blocks)

    def batch(self, indices: Indices) -> Batch:
        """Inputs [n, what is kept], labels [n, what was left out] and the labels shifted right for the decoder."""
        numbers = indices % len(self)
        lengths = self._blocks.lengths(numbers)
        pairs = []
        for row, length, visit in zip(self._blocks.read(numbers), lengths, indices, strict=True):
            noise = noise_mask(int(length), visit_draw(self._seed, visit))
            pairs.append(corrupt(row[:length], noise, self._sentinels, self._marks.eos))
        sources, targets = zip(*pairs, strict=True)
        inputs, labels = _pad(sources, self._marks.pad), _pad(targets, IGNORED)
        shifted = np.full_like(labels, self._marks.pad)
        shifted[:, 1:] = np.where(labels[:, :-1] == IGNORED, self._marks.pad, labels[:, :-1])
        further = {"decoder_input_ids": torch.from_numpy(shifted)}
        sizes = np.asarray([len(each) for each in sources])
        if (sizes < inputs.shape[1]).any():
            further["attention_mask"] = valid_mask(sizes, inputs.shape[1])
        return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), further)

    def targets(self, indices: Indices) -> int:
        """Tokens that the targets of these blocks have."""
        return sum(target_length(int(length)) for length in self._blocks.lengths(indices % len(self)))

    def tokens_of(self, indices: Indices) -> int:
        """Tokens of these blocks, which are read by the encoder or, a seventh of them, written by the decoder."""
        return int(self._blocks.lengths(indices % len(self)).sum())


def _pad(rows: tuple[Tokens, ...], filling: int) -> Tokens:
    """Rows as one int64 array, filled up on the right."""
    result = np.full((len(rows), max(map(len, rows))), filling, np.int64)
    for place, row in zip(result, rows, strict=True):
        place[: len(row)] = row
    return result
