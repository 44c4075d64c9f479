"""Gopher's repetition rules (Rae et al. 2021, arXiv:2112.11446, table A1), counted as datatrove does."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from pipelines.curate.config import GopherRepetitionConfig
from pipelines.curate.rules import Measures, RuleSet, at_most
from pipelines.curate.words import Words

PARAGRAPH_END = re.compile(r"\n{2,}")
LINE_END = re.compile(r"\n+")
PUBLISHED_TOP = (2, 3, 4)
PUBLISHED_REPEATED = (5, 6, 7, 8, 9, 10)


def gopher_repetition(thresholds: GopherRepetitionConfig) -> RuleSet[Words]:
    """The rules with these thresholds, in datatrove's order."""
    name = "gopher_repetition"
    limits = [
        *at_most(f"{name}.duplicate_paragraphs", "duplicate_paragraphs", thresholds.max_duplicate_paragraphs),
        *at_most(
            f"{name}.duplicate_paragraph_characters",
            "duplicate_paragraph_characters",
            thresholds.max_duplicate_paragraph_characters,
        ),
        *at_most(f"{name}.duplicate_lines", "duplicate_lines", thresholds.max_duplicate_lines),
        *at_most(
            f"{name}.duplicate_line_characters", "duplicate_line_characters", thresholds.max_duplicate_line_characters
        ),
    ]
    symbols = thresholds.symbols_are_words
    fewest = 1 if thresholds.count_single_ngrams else 2
    for n, most in sorted(thresholds.max_top_ngram.items()):
        limits += at_most(f"{name}.top_{n}_gram", _top(n, fewest, symbols), most)
    for n, most in sorted(thresholds.max_duplicate_ngrams.items()):
        limits += at_most(f"{name}.duplicate_{n}_grams", _repeated(n, symbols), most)
    return RuleSet(
        _measures(tuple(thresholds.max_top_ngram), tuple(thresholds.max_duplicate_ngrams), symbols), tuple(limits)
    )


def _top(n: int, fewest: int, symbols: bool) -> str:
    return f"top_{'repeated_' if fewest > 1 else ''}{n}_gram{'' if symbols else '_without_symbols'}"


def _repeated(n: int, symbols: bool) -> str:
    return f"duplicate_{n}_grams{'' if symbols else '_without_symbols'}"


@functools.cache
def _measures(top: tuple[int, ...], repeated: tuple[int, ...], symbols: bool) -> Measures[Words]:
    """What the rules measure: of n-grams the published sizes and these, with or without symbols."""
    measures = dict(_PIECES)
    for n in sorted({*PUBLISHED_TOP, *top}):
        for fewest in (1, 2):
            measures[_top(n, fewest, symbols)] = functools.partial(_top_ngram, n=n, fewest=fewest, symbols=symbols)
    for n in sorted({*PUBLISHED_REPEATED, *repeated}):
        measures[_repeated(n, symbols)] = functools.partial(_duplicate_ngrams, n=n, symbols=symbols)
    return measures


def repeated_pieces(pieces: Sequence[str]) -> tuple[int, int]:
    """How many pieces occurred before, and the characters in those."""
    different = set(pieces)
    repeated = len(pieces) - len(different)
    return repeated, sum(map(len, pieces)) - sum(map(len, different)) if repeated else 0


def _duplicates(document: Words, border: re.Pattern[str]) -> tuple[float, float]:
    """The share of pieces that occurred before, and of the document's characters in them."""
    if border not in document.kept:
        pieces = border.split(document.text.strip() if border is PARAGRAPH_END else document.text)
        repeated, characters = repeated_pieces(pieces)
        document.kept[border] = repeated / len(pieces), characters / max(document.size, 1)
    return document.kept[border]


def _top_ngram(document: Words, n: int, fewest: int, symbols: bool) -> float:
    characters, occurrences = document.top_ngram(n, symbols)
    return characters / document.size if occurrences >= fewest else 0.0


def _duplicate_ngrams(document: Words, n: int, symbols: bool) -> float:
    return document.repeated_ngrams(n, symbols) / max(document.size, 1)


_PIECES: Measures[Words] = {
    "duplicate_paragraphs": lambda document: _duplicates(document, PARAGRAPH_END)[0],
    "duplicate_paragraph_characters": lambda document: _duplicates(document, PARAGRAPH_END)[1],
    "duplicate_lines": lambda document: _duplicates(document, LINE_END)[0],
    "duplicate_line_characters": lambda document: _duplicates(document, LINE_END)[1],
}
"""Shares: of the paragraphs and lines, or of the document's characters."""
