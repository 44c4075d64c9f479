"""Gopher's repetition rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, table A1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.curate.config import GopherRepetitionConfig
from pipelines.curate.words import Words

_PARAGRAPH_END = re.compile(r"\n{2,}")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2^64


def judge_repetition(document: Words, rules: GopherRepetitionConfig) -> str | None:
    """The first rule that the document breaks, or None."""
    size = len(document.text)
    if size == 0:
        return None
    repeated, characters, total = repeated_pieces(_PARAGRAPH_END.split(document.text.strip()))
    if rules.max_duplicate_paragraphs is not None and repeated / total > rules.max_duplicate_paragraphs:
        return "gopher_repetition.duplicate_paragraphs"
    most = rules.max_duplicate_paragraph_characters
    if most is not None and characters / size > most:
        return "gopher_repetition.duplicate_paragraph_characters"
    repeated, characters, total = repeated_pieces(document.lines or [""])
    if rules.max_duplicate_lines is not None and repeated / total > rules.max_duplicate_lines:
        return "gopher_repetition.duplicate_lines"
    if rules.max_duplicate_line_characters is not None and characters / size > rules.max_duplicate_line_characters:
        return "gopher_repetition.duplicate_line_characters"
    grams = NGrams(document.words)  # of words: rulers and table borders are layout, not repeated speech
    for n, most in sorted(rules.max_top_ngram.items()):
        if grams.top_characters(n) / size > most:
            return f"gopher_repetition.top_{n}_gram"
    for n, most in sorted(rules.max_duplicate_ngrams.items()):
        if grams.repeated_characters(n) / size > most:
            return f"gopher_repetition.duplicate_{n}_grams"
    return None


def repeated_pieces(pieces: Sequence[str]) -> tuple[int, int, int]:
    """How many pieces occurred before, the characters in those, and how many pieces there are."""
    seen: set[str] = set()
    repeated = characters = 0
    for piece in pieces:
        if piece in seen:
            repeated += 1
            characters += len(piece)
        else:
            seen.add(piece)
    return repeated, characters, len(pieces)


class NGrams:
    """The n-grams of a list of words, as 64-bit hashes of word numbers (so no text is joined).

    Two different n-grams of one document are taken for equal with a probability of about 2^-64 for each pair.
    """

    def __init__(self, words: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        self._numbers = np.fromiter((numbers.setdefault(w, len(numbers) + 1) for w in words), np.uint64, len(words))
        self._lengths = np.fromiter(map(len, words), np.int64, len(words))
        self._ends = np.concatenate(([0], np.cumsum(self._lengths)))

    def hashes(self, n: int) -> npt.NDArray[np.uint64]:
        """One hash for each run of ``n`` words, in order."""
        count = len(self._numbers) - n + 1
        if count <= 0:
            return np.empty(0, np.uint64)
        result = np.zeros(count, np.uint64)
        for start in range(n):
            result = result * _MULTIPLIER + self._numbers[start : start + count]
        return result

    def top_characters(self, n: int) -> int:
        """Characters in all occurrences of the most frequent n-gram with its blanks; of equals the first counts.

        Nothing where no n-gram occurs twice: in a short text one occurrence would already be a large share.
        """
        hashes = self.hashes(n)
        if len(hashes) == 0:
            return 0
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        most = counts.max()
        if most < 2:
            return 0
        position = int(first[counts == most].min())
        return int(self._ends[position + n] - self._ends[position] + n - 1) * int(most)

    def repeated_characters(self, n: int) -> int:
        """Characters of n-grams that occurred before, blanks not counted, none counted twice.

        Read from the start: a repeated n-gram is counted and stepped over, any other is remembered.
        """
        hashes = self.hashes(n)
        if len(hashes) == 0 or len(np.unique(hashes)) == len(hashes):
            return 0
        listed = hashes.tolist()
        ends = self._ends.tolist()
        seen: set[int] = set()
        position = characters = 0
        while position < len(listed):
            if listed[position] in seen:
                characters += ends[position + n] - ends[position]
                position += n
            else:
                seen.add(listed[position])
                position += 1
        return characters
