"""MinHash signatures over word n-grams (Broder 1997), cut into bands for locality-sensitive hashing.

Arithmetic is modulo 2^64 throughout and seeded, so a text has the same signature on every machine.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt
import xxhash

from pipelines.curate.config import MinHashConfig

_WORD = re.compile(r"\w+")
_CHUNK = 1024
"""Shingles hashed at once: with 112 hash functions that fills about 1 MB, which stays in a core's cache."""
_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT_33, _SHIFT_32 = np.uint64(33), np.uint64(32)


def comparable_words(text: str) -> list[str]:
    """The words by which texts are compared: case and everything that is not a letter or digit are left out."""
    return _WORD.findall(text.casefold())


def content_hash(words: list[str]) -> bytes:
    """16 bytes that are equal exactly for texts of equal comparable words (SHA-256, cut)."""
    return hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).digest()[:16]


class MinHasher:
    """Signatures for one configuration.

    Hash i of a shingle x (32 bits) is the upper half of ``a_i * x + b_i`` modulo 2^64 with a_i odd (Dietzfelbinger's
    multiply-add-shift), so equal positions of two signatures agree with probability equal to the Jaccard similarity.
    """

    def __init__(self, config: MinHashConfig) -> None:
        self.config = config
        generator = np.random.Generator(np.random.PCG64(config.seed))
        count = config.bands * config.rows
        self._a = generator.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._b = generator.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2)
        self._known: dict[str, int] = {}

    def shingles(self, words: list[str]) -> npt.NDArray[np.uint64]:
        """The distinct n-grams as sorted 32-bit numbers; a text shorter than one n-gram is one shingle by itself."""
        if not words:
            return np.empty(0, np.uint64)
        known = self._known
        for word in words:
            if word not in known:
                known[word] = xxhash.xxh64_intdigest(word.encode("utf-8", "surrogatepass"))
        hashes = np.fromiter((known[word] for word in words), np.uint64, len(words))
        length = min(self.config.ngram, len(words))
        count = len(words) - length + 1
        combined = np.zeros(count, np.uint64)
        for start in range(length):
            combined = combined * _MULTIPLIER + hashes[start : start + count]
        return np.unique(_mix(combined) >> _SHIFT_32)

    def signature(self, words: list[str]) -> npt.NDArray[np.uint32]:
        """``bands * rows`` minimum hashes; all are the largest number for a text without words."""
        shingles = self.shingles(words)
        lowest = np.full(len(self._a), 0xFFFFFFFF, np.uint64)
        for start in range(0, len(shingles), _CHUNK):
            block = shingles[start : start + _CHUNK, None] * self._a
            block += self._b
            block >>= _SHIFT_32
            np.minimum(lowest, block.min(axis=0), out=lowest)
        return lowest.astype(np.uint32)

    def band_keys(self, signature: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """One 64-bit key a band; two texts are candidates where a key at the same position is equal."""
        rows = signature.astype(np.uint64).reshape(self.config.bands, self.config.rows)
        keys = np.zeros(self.config.bands, np.uint64)
        for row in range(self.config.rows):
            keys = _mix(keys * _MULTIPLIER + rows[:, row] + np.uint64(1))
        return keys


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads every input bit over all output bits (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> _SHIFT_33)) * _MIX_1
    values = (values ^ (values >> _SHIFT_33)) * _MIX_2
    return values ^ (values >> _SHIFT_33)


def meeting_probability(similarity: float, bands: int, rows: int) -> float:
    """The probability that two texts of this Jaccard similarity share a band: 1 - (1 - s^rows)^bands."""
    return 1.0 - (1.0 - similarity**rows) ** bands
