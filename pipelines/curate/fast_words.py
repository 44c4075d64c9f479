"""Compiled: words from the kinds of characters alone, close to how the reference splits English.

Marks before and behind a chunk are a word each (an ellipsis is one); between letters a hyphen, comma, colon, slash,
``=``, ``<`` or ``>`` is a word, but not in an address with ``://``; so are ``n't`` and a short ending behind an
apostrophe.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curate.characters import ALPHABETIC, SPACE, TABLE_SIZE, WORD
from pipelines.curate.chunks import Codes, Places
from pipelines.curate.compiled import compiled

_DOT, _QUOTE, _TYPOGRAPHIC = 46, 39, 0x2019
_INNER = (44, 45, 47, 58, 60, 61, 62, 0x2013, 0x2014)  # , - / : < = > and dashes
_T, _N = 116, 110
_COLON, _SLASH = 58, 47
_ATTACHED = (36, 35, 38, 64, 94, 95, 43, 45)
"""$ # & @ ^ _ + - do not part from what follows or precedes them where the reference keeps them."""


@compiled
def _kind(codes: Codes, i: int, table: npt.NDArray[np.uint8]) -> int:
    code = codes[i]
    return int(table[code]) if code < TABLE_SIZE else 0


@compiled
def _is_mark(codes: Codes, i: int, table: npt.NDArray[np.uint8]) -> bool:
    return _kind(codes, i, table) & WORD == 0 and codes[i] not in _ATTACHED


@compiled
def split_fast(codes: Codes, table: npt.NDArray[np.uint8]) -> tuple[Places, Places]:
    """Where each word starts and ends."""
    starts, ends = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
    count = 0
    size = len(codes)
    position = 0
    while position < size:
        if _kind(codes, position, table) & SPACE:
            position += 1
            continue
        end = position
        while end < size and not _kind(codes, end, table) & SPACE:
            end += 1
        core_end = end
        while core_end > position and _is_mark(codes, core_end - 1, table):
            core_end -= 1
        start = position
        address = False
        for i in range(position, end - 2):
            if codes[i] == _COLON and codes[i + 1] == _SLASH and codes[i + 2] == _SLASH:
                address = True
        inside = False  # behind the marks that the chunk begins with
        i = position
        while i < end:
            marks = i >= core_end
            if marks or (not inside and _is_mark(codes, i, table)):
                if i > start:
                    starts[count], ends[count] = start, i
                    count += 1
                start = i
                i += 1
                while i < end and codes[i] == _DOT and codes[i - 1] == _DOT:
                    i += 1
                starts[count], ends[count] = start, i
                count += 1
                start = i
                continue
            inside = True
            if i > start and i + 1 < core_end and not address:
                letter = _kind(codes, i + 1, table) & ALPHABETIC != 0
                if codes[i] in _INNER and letter and _kind(codes, i - 1, table) & WORD:
                    starts[count], ends[count] = start, i
                    starts[count + 1], ends[count + 1] = i, i + 1
                    count += 2
                    start = i + 1
                elif (codes[i] == _QUOTE or codes[i] == _TYPOGRAPHIC) and letter and core_end - i <= 3:
                    cut = i - 1 if codes[i + 1] == _T and codes[i - 1] == _N and core_end - i == 2 else i
                    if cut > start:
                        starts[count], ends[count] = start, cut
                        count += 1
                        start = cut
            i += 1
        if start < end:
            starts[count], ends[count] = start, end
            count += 1
        position = end
    return starts[:count].copy(), ends[:count].copy()
