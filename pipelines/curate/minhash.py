"""MinHash signatures over word n-grams (Broder 1997), cut into bands for locality-sensitive hashing.

An n-gram is the 64-bit xxHash of its words with one blank between; hash i of it is ``a_i * x + b_i`` modulo 2^64,
taken modulo the Mersenne prime 2^61 - 1. With the same seed these are the numbers of datatrove 0.10, so that two
texts share a band here exactly where they do there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipelines.curate.comparable import ComparableText
from pipelines.curate.compiled import compiled
from pipelines.curate.config import MinHashConfig

U64 = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_ASCII_WORDS = bytes(i if chr(i).isalnum() or chr(i) == "_" else 32 for i in range(128)) + bytes(128)
_PRIME = np.uint64((1 << 61) - 1)
_BATCH_BYTES = 4 << 20
_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_UNMIX_1 = np.uint64(pow(0xFF51AFD7ED558CCD, -1, 1 << 64))
_UNMIX_2 = np.uint64(pow(0xC4CEB9FE1A85EC53, -1, 1 << 64))
_SHIFT_33 = np.uint64(33)


def comparable_words(text: str) -> list[str]:
    """The words by which exact duplicates are told: case and everything that is not a letter or digit are left out."""
    return _WORD.findall(text.casefold())


def content_hash(text: str) -> bytes:
    """16 bytes that are equal exactly for texts of equal comparable words (SHA-256, cut).

    A text without words is compared as it is.
    """
    if text.isascii():
        words = b" ".join(text.encode("ascii").lower().translate(_ASCII_WORDS).split())
    else:
        words = " ".join(comparable_words(text)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(words or text.encode("utf-8", "surrogatepass")).digest()[:16]


class MinHasher:
    """Signatures for one configuration; made once a process, since it remembers how words are cut."""

    def __init__(self, config: MinHashConfig) -> None:
        self.config = config
        generator = np.random.RandomState(config.seed)
        count = config.bands * config.rows
        self.multipliers: U64 = generator.randint(1, _PRIME, dtype=np.uint64, size=count)
        self.increments: U64 = generator.randint(0, _PRIME, dtype=np.uint64, size=count)
        self._comparable = ComparableText(config.words)

    def signatures(self, texts: Iterable[str]) -> tuple[U64, npt.NDArray[np.bool_]]:
        """The signatures of many texts.

        Returns:
            (texts, bands * rows) minimum hashes, and for each text whether it has one: with fewer words than an
            n-gram it has not, and its row means nothing.
        """
        done: list[U64] = []
        batch: list[bytes] = []
        size = 0
        for text in texts:
            batch.append(self._comparable.encode(text))
            size += len(batch[-1])
            if size >= _BATCH_BYTES:
                done.append(self._hash(batch))
                batch, size = [], 0
        done.append(self._hash(batch))
        lowest = np.concatenate(done)
        return lowest, lowest[:, 0] != _EMPTY

    def _hash(self, texts: list[bytes]) -> U64:
        ends = np.cumsum([0, *(len(each) for each in texts)])
        buffer = np.frombuffer(b"".join(texts), np.uint8)
        lowest = np.full((len(texts), len(self.multipliers)), _EMPTY, np.uint64)
        _lowest_hashes(buffer, ends, self.config.ngram, self.multipliers, self.increments, lowest)
        return lowest

    def band_keys(self, signatures: U64) -> U64:
        """One 64-bit key for each band: (texts, bands). Two texts meet where a key at the same place is equal.

        The band's number is part of the key, so that keys of all bands can lie in one table.
        """
        rows = signatures.reshape(len(signatures), self.config.bands, self.config.rows)
        keys = np.broadcast_to(np.arange(self.config.bands, dtype=np.uint64), rows.shape[:2])
        for row in range(self.config.rows):
            keys = mix(keys * _MULTIPLIER + rows[:, :, row] + np.uint64(1))
        return keys


_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Above every hash, which is below 2^61."""


def mix(values: U64) -> U64:
    """Spreads every input bit over all output bits, one to one (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> _SHIFT_33)) * _MIX_1
    values = (values ^ (values >> _SHIFT_33)) * _MIX_2
    return values ^ (values >> _SHIFT_33)


def unmix(values: U64) -> U64:
    """The inverse of :func:`mix`."""
    values = (values ^ (values >> _SHIFT_33)) * _UNMIX_2
    values = (values ^ (values >> _SHIFT_33)) * _UNMIX_1
    return values ^ (values >> _SHIFT_33)


def meeting_probability(similarity: float, bands: int, rows: int) -> float:
    """The probability that two texts of this Jaccard similarity share a band: 1 - (1 - s^rows)^bands."""
    return 1.0 - (1.0 - similarity**rows) ** bands


_P1, _P2, _P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_P4, _P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)
"""The constants of XXH64 (its specification, section "XXH64 algorithm description")."""
_U = np.uint64


@compiled
def _rotate(value: np.uint64, by: int) -> np.uint64:
    return (value << _U(by)) | (value >> _U(64 - by))


@compiled
def _word_at(data: npt.NDArray[np.uint8], at: int, count: int) -> np.uint64:
    """``count`` bytes as a little-endian number."""
    value = _U(0)
    for i in range(count):
        value |= _U(data[at + i]) << _U(8 * i)
    return value


@compiled
def _round(state: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(state + word * _P2, 31) * _P1


@compiled
def xxh64(data: npt.NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """XXH64 with seed 0 of ``data[start:end]``."""
    at = start
    if end - start >= 32:
        one, two, three, four = _P1 + _P2, _P2, _U(0), _U(0) - _P1
        while at <= end - 32:
            one = _round(one, _word_at(data, at, 8))
            two = _round(two, _word_at(data, at + 8, 8))
            three = _round(three, _word_at(data, at + 16, 8))
            four = _round(four, _word_at(data, at + 24, 8))
            at += 32
        value = _rotate(one, 1) + _rotate(two, 7) + _rotate(three, 12) + _rotate(four, 18)
        for state in (one, two, three, four):
            value = (value ^ _round(_U(0), state)) * _P1 + _P4
    else:
        value = _P5
    value += _U(end - start)
    while at <= end - 8:
        value = _rotate(value ^ _round(_U(0), _word_at(data, at, 8)), 27) * _P1 + _P4
        at += 8
    if at <= end - 4:
        value = _rotate(value ^ (_word_at(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        value = _rotate(value ^ (_U(data[at]) * _P5), 11) * _P1
        at += 1
    value = (value ^ (value >> _U(33))) * _P2
    value = (value ^ (value >> _U(29))) * _P3
    return value ^ (value >> _U(32))


@compiled
def _lowest_hashes(
    buffer: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    ngram: int,
    multipliers: U64,
    increments: U64,
    lowest: U64,
) -> None:
    """The smallest of each hash function over the n-grams of texts that lie one behind the other."""
    starts = np.empty(ngram, np.int64)  # where the last n words begin, in a ring
    for text in range(len(ends) - 1):
        row = lowest[text]
        words = 0
        at = ends[text]
        while at < ends[text + 1]:
            starts[words % ngram] = at
            words += 1
            while at < ends[text + 1] and buffer[at] != 32:
                at += 1
            if words >= ngram:
                shingle = xxh64(buffer, starts[words % ngram], at)
                for i in range(len(multipliers)):
                    value = shingle * multipliers[i] + increments[i]
                    value = (value & _PRIME) + (value >> _U(61))
                    value = min(value, value - _PRIME)  # below the prime the difference wraps around and is larger
                    row[i] = min(row[i], value)
            at += 1
