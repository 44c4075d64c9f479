"""Where any of many phrases occur in a text, in one pass over its bytes: n-grams of normalised words, by hash.

A word is a run of letters and digits, compared without case; everything else separates words. Characters of Han and
kana, which are written without spaces, are words of their own. Text beyond ASCII is brought to NFKC first.

Hashes have 64 bits and are the same on every machine. With a million phrases, a text of 10^11 words meets an expected
0.005 of them by accident.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.curate.compiled import compiled

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SYMBOLS = re.compile(r"[^\w\x00-\x7f]+")
_UNSPACED = re.compile(f"([{_ALONE}])")
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_33, _1 = np.uint64(33), np.uint64(1)
_BITS_A_PHRASE = 16
_FEWEST_BITS = 16


def hash_words(text: str) -> Hashes:
    """One 64-bit number a word (the module's text says what a word is)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
        text = _UNSPACED.sub(r" \1 ", _SYMBOLS.sub(" ", text))
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    hashes = np.empty(len(data) // 2 + 1, np.uint64)
    return hashes[: _hash_words(data, hashes)]


def hash_grams(words: Hashes, length: int) -> Hashes:
    """One number for each run of ``length`` words, in order."""
    return _hash_grams(words, length)


def quote(text: str, position: int, length: int) -> tuple[int, int]:
    """Where the words ``position`` to ``position + length`` stand in a text, as character offsets.

    Exact unless NFKC cuts the text's words in other places; then it lies close by.
    """
    return quotes(text, [(position, length)])[0]


def quotes(text: str, phrases: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Like :func:`quote`, of many runs of words given by position and length."""
    spans = [match.span() for match in _WORD.finditer(text)]
    found = []
    for position, length in phrases:
        first = min(position, len(spans) - 1)
        found.append((spans[first][0], spans[min(first + length, len(spans)) - 1][1]) if spans else (0, 0))
    return found


@dataclass(frozen=True)
class Matches:
    """Occurrences of phrases in one text, by length and then by place.

    Attributes:
        words: how many words the text has.
        positions: the number of each occurrence's first word.
        lengths: its words.
        phrases: the phrase's number.
    """

    words: int
    positions: Numbers
    lengths: Numbers
    phrases: Numbers


@dataclass(frozen=True)
class PhraseIndex:
    """A set of phrases, numbered by the order of their hashes.

    Attributes:
        lengths: the different numbers of words that phrases have.
        hashes: one for each phrase, ascending.
        slots: an open hash table of phrase numbers, -1 where empty; at most half full.
        bits: a smaller table that says no to most of what is not in the set.
    """

    lengths: Numbers
    hashes: Hashes
    slots: npt.NDArray[np.int32]
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, hashes: Hashes, lengths: Iterable[int]) -> PhraseIndex:
        """An index of phrases given by :func:`hash_grams`, in any order, repeated or not."""
        unique = np.unique(hashes)
        table_bits = max(4, int(2 * len(unique)).bit_length())
        slots = np.full(1 << table_bits, -1, np.int32)
        bits = np.zeros(1 << (max(_FEWEST_BITS, int(_BITS_A_PHRASE * len(unique)).bit_length()) - 3), np.uint8)
        _fill(unique, slots, bits)
        return cls(np.array(sorted(set(lengths)), np.int64), unique, slots, bits)

    def find(self, text: str) -> Matches:
        """Every occurrence of every phrase; overlapping ones too."""
        words = hash_words(text)
        room = 64
        while True:
            found = np.empty((3, room), np.int64)
            count = _find(words, self.lengths, self.hashes, self.slots, self.bits, found)
            if count <= room:
                return Matches(len(words), found[0, :count], found[1, :count], found[2, :count])
            room = count

    def number(self, hashes: Hashes) -> Numbers:
        """The numbers of phrases that are in the set."""
        return np.searchsorted(self.hashes, hashes).astype(np.int64)


def pack_arrays(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as one file (NumPy's ``.npz``)."""
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def unpack_arrays(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of :func:`pack_arrays`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as packed:
        return dict(packed)


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _33)) * _MIX_1
    value = (value ^ (value >> _33)) * _MIX_2
    return value ^ (value >> _33)


@compiled
def _hash_words(data: npt.NDArray[np.uint8], hashes: Hashes) -> int:
    count = 0
    value = _FNV_OFFSET
    inside = False
    for byte in data:
        if 65 <= byte <= 90:
            byte += np.uint8(32)
        if 97 <= byte <= 122 or 48 <= byte <= 57 or byte >= 128:
            value = (value ^ np.uint64(byte)) * _FNV_PRIME
            inside = True
        elif inside:
            hashes[count] = _mix(value)
            count += 1
            value = _FNV_OFFSET
            inside = False
    if inside:
        hashes[count] = _mix(value)
        count += 1
    return count


@compiled
def _hash_grams(words: Hashes, length: int) -> Hashes:
    # A polynomial in the words, modulo 2^64, taken from sums up to each word: any length costs the same.
    count = max(len(words) - length + 1, 0)
    grams = np.empty(count, np.uint64)
    power = _1
    for _ in range(length):
        power = power * _BASE
    before = np.uint64(0)
    after = np.uint64(0)
    for place in range(len(words)):
        after = after * _BASE + words[place]
        if place >= length - 1:
            grams[place - length + 1] = _mix(after - before * power + np.uint64(length))
            before = before * _BASE + words[place - length + 1]
    return grams


@compiled
def _fill(hashes: Hashes, slots: npt.NDArray[np.int32], bits: npt.NDArray[np.uint8]) -> None:
    last_slot, last_bit = np.uint64(len(slots) - 1), np.uint64(8 * len(bits) - 1)
    for number in range(len(hashes)):
        bit = (hashes[number] >> _33) & last_bit
        bits[bit >> np.uint64(3)] |= np.uint8(1 << (bit & np.uint64(7)))
        slot = hashes[number] & last_slot
        while slots[slot] >= 0:
            slot = (slot + _1) & last_slot
        slots[slot] = number


@compiled
def _find(
    words: Hashes,
    lengths: Numbers,
    hashes: Hashes,
    slots: npt.NDArray[np.int32],
    bits: npt.NDArray[np.uint8],
    found: Numbers,
) -> int:
    last_slot, last_bit = np.uint64(len(slots) - 1), np.uint64(8 * len(bits) - 1)
    count, room = 0, found.shape[1]
    for length in lengths:
        grams = _hash_grams(words, length)
        for place in range(len(grams)):
            gram = grams[place]
            bit = (gram >> _33) & last_bit
            if not bits[bit >> np.uint64(3)] & np.uint8(1 << (bit & np.uint64(7))):
                continue
            slot = gram & last_slot
            while slots[slot] >= 0:
                number = slots[slot]
                if hashes[number] == gram:
                    if count < room:
                        found[0, count] = place
                        found[1, count] = length
                        found[2, count] = number
                    count += 1
                    break
                slot = (slot + _1) & last_slot
    return count
