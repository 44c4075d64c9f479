"""Encoded examples as batches: each a row, or several packed into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.finetune.examples.encode import Encoded
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which examples share a row of ``capacity`` positions: each into the fullest row that it fits, longest first.

    Best-fit decreasing; rows are ordered by their first example, so that the data's order stays about what it was.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    for number in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        need = lengths[number]
        room = next((room for room in range(need, capacity + 1) if by_room.get(room)), None)
        if room is None:
            rows.append([number])
            row, room = len(rows) - 1, capacity
        else:
            row = by_room[room].pop(0)
            rows[row].append(number)
        by_room.setdefault(room - need, []).append(row)
    return sorted((sorted(row) for row in rows), key=lambda row: row[0])


class ExampleSamples:
    """Encoded examples as samples; a batch is padded on the right to its longest row.

    Args:
        capacity: pack several into rows of at most so many positions. They do not see each other: positions begin
            anew with each, by which transformers keeps attention within an example. Without it each is a row.
    """

    def __init__(self, examples: Sequence[Encoded], pad_id: int, capacity: int | None = None) -> None:
        self._examples, self._pad_id, self._packed = examples, pad_id, capacity is not None
        inputs = [len(each) - 1 for each in examples]
        self._rows = [[number] for number in range(len(examples))] if capacity is None else pack(inputs, capacity)
        self._targets = np.asarray([sum(examples[n].targets for n in row) for row in self._rows], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Indices) -> Batch:
        """Inputs are an example's tokens but the last; labels the tokens but the first, where they carry loss.

        Padding comes after everything that carries loss, so that with causal attention nothing sees it.
        """
        rows = [self._rows[int(index) % len(self)] for index in indices]
        length = max(sum(len(self._examples[n]) - 1 for n in row) for row in rows)
        inputs = torch.full((len(rows), length), self._pad_id, dtype=torch.int64)
        labels = torch.full((len(rows), length), IGNORED, dtype=torch.int64)
        positions = torch.arange(length, dtype=torch.int64).repeat(len(rows), 1)
        for number, row in enumerate(rows):
            start = 0
            for each in row:
                example = self._examples[each]
                end = start + len(example) - 1
                tokens = torch.tensor(example.ids, dtype=torch.int64)
                inputs[number, start:end] = tokens[:-1]
                learned = torch.tensor(example.learned[1:])
                labels[number, start:end] = torch.where(learned, tokens[1:], IGNORED)
                positions[number, start:end] = torch.arange(end - start)
                start = end
            positions[number, start:] = torch.arange(length - start)
        return Batch(inputs, labels, {"position_ids": positions} if self._packed else {})

    def targets(self, indices: Indices) -> int:
        """Tokens that carry loss in these rows."""
        return int(self._targets[indices % len(self)].sum())
