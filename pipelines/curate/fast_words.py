"""Compiled: words from the kinds of characters alone, close to how the reference splits English.

Marks before and behind a chunk are a word each (a run of dots is one), but not those that the reference leaves in
place, as in ``/etc``, ``x-``, ``|--|`` or the dot of an initial. Between letters a hyphen, comma, colon, slash,
``=``, ``<`` or ``>`` is a word, as is a dot before a capital, but not in an address with ``://``. So are ``n't`` and
the ends ``'s 're 've 'll 'm 'd``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curate.characters import ALPHABETIC, SPACE, TABLE_SIZE, UPPER, WORD
from pipelines.curate.chunks import Codes, Places
from pipelines.curate.compiled import compiled

_DOT, _COLON, _SLASH, _UNDERSCORE, _EQUALS = 46, 58, 47, 95, 61
_QUOTES = (39, 0x2019)
_INNER = (44, 45, 47, 58, 60, 61, 62, 0x2013, 0x2014)  # , - / : < = > and dashes
_SIGNS = (42, 43, 45, 94)  # * + - ^ between digits
_STUCK = (43, 45, 47, 64, 92, 94, 124, 126)  # + - / @ \ ^ | ~
_D, _L, _M, _N, _S, _T, _CAPITAL_S = 100, 108, 109, 110, 115, 116, 83
_PAIRS = ((114, 101), (118, 101), (108, 108))  # re, ve, ll


@compiled
def _kind(codes: Codes, i: int, table: npt.NDArray[np.uint8]) -> int:
    code = codes[i]
    return int(table[code]) if code < TABLE_SIZE else 0


@compiled
def _is_mark(codes: Codes, i: int, table: npt.NDArray[np.uint8]) -> bool:
    code = codes[i]
    return code == _UNDERSCORE or (_kind(codes, i, table) & WORD == 0 and code not in _STUCK)


@compiled
def _is_front(codes: Codes, i: int, end: int, table: npt.NDArray[np.uint8]) -> bool:
    """Whether a character that begins what is left of a chunk is a word by itself."""
    if codes[i] == _DOT:
        return i + 1 == end or codes[i + 1] == _DOT
    return _is_mark(codes, i, table)


@compiled
def _is_back(codes: Codes, i: int, start: int, table: npt.NDArray[np.uint8]) -> bool:
    """Whether a character that ends what is left of a chunk, which starts at ``start``, is a word by itself."""
    if codes[i] == _DOT and i > start:
        before = _kind(codes, i - 1, table)
        if before & ALPHABETIC == 0:
            return True
        if before & UPPER:
            return i - 1 > start and _kind(codes, i - 2, table) & UPPER != 0
        return i - 1 > start
    return codes[i] != _EQUALS and _is_mark(codes, i, table)


@compiled
def _ending(codes: Codes, start: int, end: int) -> int:
    """Where the contracted ending of a word begins, or ``end``."""
    size = end - start
    last = codes[end - 1]
    if size >= 3 and codes[end - 2] in _QUOTES:
        if last == _T and codes[end - 3] == _N and size > 3:
            return end - 3
        if last in (_S, _CAPITAL_S, _M) or (last == _D and size <= 5):
            return end - 2
    if size >= 4 and codes[end - 3] in _QUOTES:
        for first, second in _PAIRS:
            if codes[end - 2] == first and last == second:
                return end - 3
    return end


@compiled
def _is_infix(code: int, before: int, after: int) -> bool:
    """Whether a character between two of these kinds is a word."""
    if code == _DOT:
        return before & (ALPHABETIC | UPPER) == ALPHABETIC and after & UPPER != 0
    if code in _SIGNS and before & (WORD | ALPHABETIC) == WORD and after & (WORD | ALPHABETIC) == WORD:
        return True
    return code in _INNER and before & WORD != 0 and after & ALPHABETIC != 0


@compiled
def _is_address(codes: Codes, start: int, end: int) -> bool:
    # numba compiles no generator in any()
    for i in range(start, end - 2):  # noqa: SIM110
        if codes[i] == _COLON and codes[i + 1] == _SLASH and codes[i + 2] == _SLASH:
            return True
    return False


@compiled
def _split_core(
    codes: Codes, start: int, end: int, table: npt.NDArray[np.uint8], starts: Places, ends: Places, count: int
) -> int:
    """Fill in the words of a chunk without the marks around it; how many there are then."""
    if not _is_address(codes, start, end):
        for i in range(start + 1, end - 1):
            if i > start and _is_infix(codes[i], _kind(codes, i - 1, table), _kind(codes, i + 1, table)):
                starts[count], ends[count] = start, i
                starts[count + 1], ends[count + 1] = i, i + 1
                count += 2
                start = i + 1
    cut = _ending(codes, start, end)
    starts[count], ends[count] = start, cut
    count += 1
    if cut < end:
        starts[count], ends[count] = cut, end
        count += 1
    return count


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
        start = position
        core_end = end
        if not (end - start == 2 and codes[start] in _QUOTES and codes[start + 1] == _S):
            while start < end and _is_front(codes, start, end, table):
                dots = start + 1
                while dots < end and codes[start] == _DOT and codes[dots] == _DOT:
                    dots += 1
                starts[count], ends[count] = start, dots
                count += 1
                start = dots
            while core_end > start and _is_back(codes, core_end - 1, start, table):
                core_end -= 1
        if start < core_end:
            count = _split_core(codes, start, core_end, table, starts, ends, count)
        while core_end < end:
            dots = core_end + 1
            while dots < end and codes[core_end] == _DOT and codes[dots] == _DOT:
                dots += 1
            starts[count], ends[count] = core_end, dots
            count += 1
            core_end = dots
        position = end
    return starts[:count].copy(), ends[:count].copy()
