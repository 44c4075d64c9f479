"""Gopher's document quality rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Counted as datatrove does: a word that consists of symbols alone is left out of the number of words and of their mean
length, and counts in ratios to words only with ``symbols_are_words``; lines include empty ones; stop words count once.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable

from pipelines.curate.config import GopherQualityConfig
from pipelines.curate.rules import Measures, RuleSet, at_least, at_most
from pipelines.curate.words import Words

ELLIPSES = ("...", "…")
BULLETS = ("•", "-")
HEADING = re.compile(r"^[ \t]*#{1,6}(?=[ \t])", re.MULTILINE)


def gopher_quality(thresholds: GopherQualityConfig) -> RuleSet[Words]:
    """The rules with these thresholds, in datatrove's order."""
    hashes = "hash_signs" if thresholds.count_heading_marks else "hash_signs_outside_headings"
    words = "" if thresholds.symbols_are_words else _SPEAKING
    limits = (
        *at_least("gopher_quality.min_words", "words", thresholds.min_words),
        *at_most("gopher_quality.max_words", "words", thresholds.max_words),
        *at_least("gopher_quality.min_mean_word_length", "mean_word_length", thresholds.min_mean_word_length),
        *at_most("gopher_quality.max_mean_word_length", "mean_word_length", thresholds.max_mean_word_length),
        *at_most("gopher_quality.hash_signs", hashes + words, thresholds.max_symbol_ratio),
        *at_most("gopher_quality.ellipses", "ellipses" + words, thresholds.max_symbol_ratio),
        *at_most("gopher_quality.bullet_lines", "bullet_lines", thresholds.max_bullet_lines),
        *at_most("gopher_quality.ellipsis_lines", "ellipsis_lines", thresholds.max_ellipsis_lines),
        *at_least("gopher_quality.alphabetic_words", "alphabetic_words" + words, thresholds.min_alphabetic_words),
        *at_least("gopher_quality.stop_words", "stop_words", thresholds.min_stop_words),
    )
    return RuleSet(MEASURES, limits)


def _mean_word_length(document: Words) -> float:
    counts = document.counts
    return counts.speaking_characters / counts.speaking if counts.speaking else math.nan


def _all_words(document: Words) -> int:
    return document.word_count


def _speaking_words(document: Words) -> int:
    return document.counts.speaking


def _share(document: Words, count: Callable[[Words], int], words: Callable[[Words], int]) -> float:
    number = count(document)
    return number / max(words(document), 1) if number else 0.0


def _hash_signs(document: Words) -> int:
    return document.text.count("#")


def _hash_signs_outside_headings(document: Words) -> int:
    number = document.text.count("#")
    return number - sum(len(mark.strip()) for mark in HEADING.findall(document.text)) if number else 0


def _ellipses(document: Words) -> int:
    return sum(map(document.text.count, ELLIPSES))


def _alphabetic_words(document: Words) -> int:
    return document.counts.alphabetic


def _bullet_lines(document: Words) -> float:
    if not any(bullet in document.text for bullet in BULLETS):
        return 0.0
    lines = document.text.splitlines()
    return sum(line.lstrip().startswith(BULLETS) for line in lines) / len(lines)


def _ellipsis_lines(document: Words) -> float:
    if not any(ellipsis in document.text for ellipsis in ELLIPSES):
        return 0.0
    lines = document.text.splitlines()
    return sum(line.rstrip().endswith(ELLIPSES) for line in lines) / len(lines)


_TO_WORDS = {
    "hash_signs": _hash_signs,
    "hash_signs_outside_headings": _hash_signs_outside_headings,
    "ellipses": _ellipses,
    "alphabetic_words": _alphabetic_words,
}
_SPEAKING = "_to_speaking_words"

MEASURES: Measures[Words] = {
    "words": _speaking_words,
    "mean_word_length": _mean_word_length,
    "bullet_lines": _bullet_lines,
    "ellipsis_lines": _ellipsis_lines,
    "stop_words": lambda document: document.counts.stop_words,
    **{name: functools.partial(_share, count=count, words=_all_words) for name, count in _TO_WORDS.items()},
    **{
        name + _SPEAKING: functools.partial(_share, count=count, words=_speaking_words)
        for name, count in _TO_WORDS.items()
    },
}
"""Numbers of words and characters; the rest are shares: of words, of lines. Without words there is no mean (nan)."""
