"""A document's text with its words, split once and counted by every rule.

Two ways to split: ``reference`` as datatrove does for English, so that decisions are the same; ``fast`` from the kinds
of characters alone, for any language with blanks, without a tokenizer. How often they disagree is in the README.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pipelines.curate import counts
from pipelines.curate.characters import character_table, code_points
from pipelines.curate.chunks import Codes, Hashes, Places
from pipelines.curate.fast_words import split_fast
from pipelines.curate.reference_words import reference_words

Splitter = Literal["reference", "fast"]

_HALF_PAIR = re.compile("[\ud800-\udfff]")


class WordCounts(NamedTuple):
    """Of a text: its words; those that are more than symbols, and their characters; words with a letter; stop words."""

    words: int
    speaking: int
    speaking_characters: int
    alphabetic: int
    stop_words: int


@dataclass(frozen=True)
class Words:
    """A text and how its words are split. Everything is computed once, when it is first asked for."""

    text: str
    splitter: Splitter = "reference"
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What rules computed of this text and ask for again."""

    @cached_property
    def words(self) -> list[str]:
        """Words and symbols in order."""
        codes, starts, ends = self._split
        text = codes.tobytes().decode("utf-32-le")
        return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where each of the words starts and ends, in characters of the text."""
        _, starts, ends = self._split
        return [*zip(starts.tolist(), ends.tolist(), strict=True)]

    @cached_property
    def speaking(self) -> list[int]:
        """The numbers of the words that are more than symbols."""
        codes, starts, ends = self._split
        found: list[int] = counts.are_speaking(codes, starts, ends, character_table()).nonzero()[0].tolist()
        return found

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def line_ends(self) -> int:
        """Line ends."""
        return self.text.count("\n")

    @cached_property
    def size(self) -> int:
        """Characters, blanks included."""
        return len(self.text)

    @cached_property
    def counts(self) -> WordCounts:
        """How many words there are, of which kinds."""
        return WordCounts(len(self._split[1]), *counts.count_words(*self._split, character_table(), counts.STOP_CODES))

    @cached_property
    def word_count(self) -> int:
        """Words and symbols."""
        return len(self._split[1])

    def top_ngram(self, n: int, symbols: bool) -> tuple[int, int]:
        """Characters in all occurrences of the most frequent n-gram, blanks included, and how many occur.

        Args:
            symbols: whether words that are symbols alone are in n-grams.
        """
        key = ("top", n, symbols)
        if key not in self.kept:
            self.kept[key] = counts.count_top_ngram(*(self._hashes if symbols else self._speaking_hashes), n)
        return self.kept[key]

    def repeated_ngrams(self, n: int, symbols: bool) -> int:
        """Characters of n-grams that occurred before, blanks not counted, none counted twice."""
        return int(counts.count_repeated_ngrams(*(self._hashes if symbols else self._speaking_hashes), n))

    @cached_property
    def sentences(self) -> int:
        """Sentences, at least one a line; see count_sentences."""
        return int(counts.count_sentences(*self._split, character_table()))

    @cached_property
    def _split(self) -> tuple[Codes, Places, Places]:
        """Characters, and where each word starts and ends in them. Half a surrogate pair is a replacement character."""
        text = self.text
        try:
            codes = code_points(text)
        except UnicodeEncodeError:
            text = _HALF_PAIR.sub("\ufffd", text)
            codes = code_points(text)
        if self.splitter == "reference":
            return reference_words().split(text, codes)
        return (codes, *split_fast(codes, character_table()))

    @cached_property
    def _hashes(self) -> tuple[Hashes, Hashes, Places]:
        return counts.running_hashes(*self._split)

    @cached_property
    def _speaking_hashes(self) -> tuple[Hashes, Hashes, Places]:
        codes, starts, ends = self._split
        speaking = counts.are_speaking(codes, starts, ends, character_table())
        return counts.running_hashes(codes, starts[speaking], ends[speaking])
