"""Compiled: the runs between blanks of a text, and how each was split into words when it was seen before.

A chunk is known by a 64-bit hash of its characters; two of a million different ones meet with probability 3e-8.
What is known of it is one number: 0 nothing; ONE_WORD; else ``offset << 17 | words << 1 | special``, where the pool
holds the words' lengths from ``offset``. A special chunk is an exception of the tokenizer, kept for ever.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curate.characters import SPACE, TABLE_SIZE
from pipelines.curate.compiled import compiled

Codes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

ONE_WORD = 1
LONGEST_CHUNK = 1000
"""Characters without a blank beyond which a chunk is one word: the reference tokenizer needs time quadratic in them."""

_SEED = np.uint64(0x9E3779B97F4A7C15)
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_QUOTE, _OPEN, _BRACKET, _DOT = 34, 40, 91, 46
_CLOSERS = (44, 59, 58, 33, 63, 41, 34)  # , ; : ! ? ) "


@compiled
def _hash(codes: Codes, start: int, end: int) -> np.uint64:
    key = _SEED
    for i in range(start, end):
        key = (key ^ np.uint64(codes[i])) * _FACTOR
        key ^= key >> _HALF
    return key | _ONE  # 0 marks an empty place


@compiled
def _find(keys: Hashes, key: np.uint64) -> int:
    """Where a key stands or would stand."""
    mask = np.uint64(len(keys) - 1)
    place = (key >> _HALF) & mask
    while keys[place] != 0 and keys[place] != key:
        place = (place + _ONE) & mask
    return int(place)


@compiled
def is_blank(code: int, table: npt.NDArray[np.uint8]) -> bool:
    """Whether a character is a blank of any kind."""
    return code < TABLE_SIZE and (table[code] & SPACE) != 0


@compiled
def _is_letter(code: int) -> bool:
    return 97 <= code <= 122 or 65 <= code <= 90


@compiled
def remember(
    codes: Codes,
    lengths: npt.NDArray[np.int64],
    special: int,
    table: npt.NDArray[np.uint8],
    keys: Hashes,
    values: Hashes,
    pool: npt.NDArray[np.uint16],
    used: Places,
) -> None:
    """Remember chunks that are joined by line ends; ``lengths`` are of all words, a line end being one.

    ``used`` counts the chunks and the pool's lengths that are known.
    """
    position = word = 0
    while position < len(codes):
        end = position
        while end < len(codes) and not is_blank(codes[end], table):
            end += 1
        first = word
        offset = used[1]
        place = position
        while place < end:
            pool[offset + word - first] = lengths[word]
            place += lengths[word]
            word += 1
        key = _hash(codes, position, end)
        slot = _find(keys, key)
        if keys[slot] == 0:
            keys[slot] = key
            used[0] += 1
            used[1] += word - first
            values[slot] = np.uint64(offset << 17 | (word - first) << 1 | special)
        word += 1
        position = end + 1


@compiled
def _is_special(codes: Codes, start: int, end: int, keys: Hashes, values: Hashes) -> bool:
    slot = _find(keys, _hash(codes, start, end))
    return keys[slot] != 0 and (values[slot] & _ONE) != 0


@compiled
def _split_plain(
    codes: Codes, start: int, end: int, keys: Hashes, values: Hashes, pool: npt.NDArray[np.uint16], used: Places
) -> int:
    """What the tokenizer makes of letters, of ``letters-letters``, and of letters in one mark before or behind.

    0 where the chunk is of another shape, or an exception of the tokenizer stands in it.
    """
    first, last = start, end
    if codes[first] == _QUOTE or codes[first] == _OPEN or codes[first] == _BRACKET:
        first += 1
    if codes[last - 1] in _CLOSERS or codes[last - 1] == _DOT:
        last -= 1
    if last - first < 3:
        return 0
    middle = 0
    for i in range(first, last):
        if not _is_letter(codes[i]):
            if codes[i] != 45 or middle or i - first < 2 or last - i < 3:
                return 0
            middle = i
    if last < end and codes[last] == _DOT and not (codes[last - 1] >= 97 and codes[last - 2] >= 97):
        return 0
    if first == start and last == end and not middle:
        return ONE_WORD
    for left in range(start, first + 1):
        for right in range(last, end + 1):
            if _is_special(codes, left, right, keys, values):
                return 0
    if middle and (
        _is_special(codes, first, middle, keys, values) or _is_special(codes, middle + 1, last, keys, values)
    ):
        return 0
    offset = used[1]
    count = 0
    if first > start:
        pool[offset] = 1
        count = 1
    if middle:
        pool[offset + count] = middle - first
        pool[offset + count + 1] = 1
        pool[offset + count + 2] = last - middle - 1
        count += 3
    else:
        pool[offset + count] = last - first
        count += 1
    if last < end:
        pool[offset + count] = 1
        count += 1
    used[1] += count
    return offset << 17 | count << 1


@compiled
def find_chunks(
    codes: Codes,
    begin: int,
    limit: int,
    table: npt.NDArray[np.uint8],
    keys: Hashes,
    values: Hashes,
    pool: npt.NDArray[np.uint16],
    used: Places,
    starts: Places,
    ends: Places,
    found: Hashes,
) -> tuple[int, int]:
    """Fill in the chunks that start in [begin, limit); how many there are, and where the last one ends."""
    count = 0
    position = begin
    while position < limit:
        if is_blank(codes[position], table):
            position += 1
            continue
        start = position
        key = _SEED
        while position < len(codes) and not is_blank(codes[position], table):
            key = (key ^ np.uint64(codes[position])) * _FACTOR
            key ^= key >> _HALF
            position += 1
        starts[count] = start
        ends[count] = position
        if position - start > LONGEST_CHUNK:
            found[count] = ONE_WORD
        else:
            key |= _ONE
            slot = _find(keys, key)
            if keys[slot] == key:
                found[count] = values[slot]
            else:
                value = np.uint64(_split_plain(codes, start, position, keys, values, pool, used))
                if value > ONE_WORD:
                    keys[slot] = key
                    values[slot] = value
                    used[0] += 1
                found[count] = value
        count += 1
    return count, position


@compiled
def look_again(
    codes: Codes, count: int, keys: Hashes, values: Hashes, starts: Places, ends: Places, found: Hashes
) -> int:
    """Fill in what became known of the chunks since; how many words they make in all."""
    words = 0
    for chunk in range(count):
        if found[chunk] == 0:
            slot = _find(keys, _hash(codes, starts[chunk], ends[chunk]))
            found[chunk] = values[slot] if keys[slot] != 0 else np.uint64(ONE_WORD)
        words += 1 if found[chunk] == ONE_WORD else int(found[chunk] >> _ONE) & 0xFFFF
    return words


@compiled
def place_words(
    count: int,
    pool: npt.NDArray[np.uint16],
    chunk_starts: Places,
    chunk_ends: Places,
    found: Hashes,
    starts: Places,
    ends: Places,
) -> None:
    """Where each word of the chunks starts and ends."""
    word = 0
    for chunk in range(count):
        position = chunk_starts[chunk]
        if found[chunk] == ONE_WORD:
            starts[word] = position
            ends[word] = chunk_ends[chunk]
            word += 1
            continue
        offset = int(found[chunk] >> np.uint64(17))
        for each in range(int(found[chunk] >> _ONE) & 0xFFFF):
            starts[word] = position
            position += pool[offset + each]
            ends[word] = position
            word += 1
