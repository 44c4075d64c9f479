"""Compiled: where chunks stand so that the tokenizer's exceptions might match across the blank between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curate.chunks import Codes, Places, is_blank
from pipelines.curate.compiled import compiled

_BLANK = 32


@compiled
def find_joints(
    codes: Codes, table: npt.NDArray[np.uint8], sides: npt.NDArray[np.uint8], pairs: npt.NDArray[np.bool_]
) -> tuple[Places, int]:
    """Runs of chunks with one blank between each two and a pair of characters around it that ``pairs`` names.

    ``sides`` gives each character its row and column in ``pairs``, 0 for those in no pair. Start and end in turn.
    """
    found = np.empty(len(codes) + 2, np.int64)  # only what is written takes memory
    count = 0
    size = len(codes)
    for position in range(1, size - 1):
        if codes[position] != _BLANK:
            continue
        before, after = codes[position - 1], codes[position + 1]
        if before >= len(sides) or after >= len(sides) or not pairs[sides[before], sides[after]]:
            continue
        start = position
        while start > 0 and not is_blank(codes[start - 1], table):
            start -= 1
        end = position + 1
        while end < size and not is_blank(codes[end], table):
            end += 1
        if count and found[count - 1] > start:
            found[count - 1] = end
        else:
            found[count] = start
            found[count + 1] = end
            count += 2
    return found, count
