"""Gopher's document quality rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

What is counted is what datatrove counts: a word that consists of symbols alone is left out of the number of words and
of their mean length, while ratios are to all words; lines include empty ones; a stop word counts once.
"""

from __future__ import annotations

import re

from pipelines.curate.config import GopherQualityConfig
from pipelines.curate.rules import Measures, RuleSet, at_least, at_most
from pipelines.curate.words import Words

_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")
_HEADING = re.compile(r"^[ \t]*#{1,6}(?=[ \t])", re.MULTILINE)


def gopher_quality(thresholds: GopherQualityConfig) -> RuleSet[Words]:
    """The rules with these thresholds, in datatrove's order."""
    hashes = "hash_signs" if thresholds.count_heading_marks else "hash_signs_outside_headings"
    limits = (
        *at_least("gopher_quality.min_words", "words", thresholds.min_words),
        *at_most("gopher_quality.max_words", "words", thresholds.max_words),
        *at_least("gopher_quality.min_mean_word_length", "mean_word_length", thresholds.min_mean_word_length),
        *at_most("gopher_quality.max_mean_word_length", "mean_word_length", thresholds.max_mean_word_length),
        *at_most("gopher_quality.hash_signs", hashes, thresholds.max_symbol_ratio),
        *at_most("gopher_quality.ellipses", "ellipses", thresholds.max_symbol_ratio),
        *at_most("gopher_quality.bullet_lines", "bullet_lines", thresholds.max_bullet_lines),
        *at_most("gopher_quality.ellipsis_lines", "ellipsis_lines", thresholds.max_ellipsis_lines),
        *at_least("gopher_quality.alphabetic_words", "alphabetic_words", thresholds.min_alphabetic_words),
        *at_least("gopher_quality.stop_words", "stop_words", thresholds.min_stop_words),
    )
    return RuleSet(MEASURES, limits)


def _mean_word_length(document: Words) -> float:
    counts = document.counts
    return counts.speaking_characters / counts.speaking if counts.speaking else 0.0


def _per_word(number: int, document: Words) -> float:
    return number / document.word_count if number else 0.0


def _hash_signs(document: Words) -> float:
    return _per_word(document.text.count("#"), document)


def _hash_signs_outside_headings(document: Words) -> float:
    number = document.text.count("#")
    if number:
        number -= sum(len(mark.strip()) for mark in _HEADING.findall(document.text))
    return _per_word(number, document)


def _ellipses(document: Words) -> float:
    return _per_word(sum(map(document.text.count, _ELLIPSES)), document)


def _bullet_lines(document: Words) -> float:
    if not any(bullet in document.text for bullet in _BULLETS):
        return 0.0
    lines = document.text.splitlines()
    return sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines)


def _ellipsis_lines(document: Words) -> float:
    if not any(ellipsis in document.text for ellipsis in _ELLIPSES):
        return 0.0
    lines = document.text.splitlines()
    return sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines)


def _alphabetic_words(document: Words) -> float:
    return document.counts.alphabetic / document.word_count if document.word_count else 1.0


MEASURES: Measures[Words] = {
    "words": lambda document: document.counts.speaking,
    "mean_word_length": _mean_word_length,
    "hash_signs": _hash_signs,
    "hash_signs_outside_headings": _hash_signs_outside_headings,
    "ellipses": _ellipses,
    "bullet_lines": _bullet_lines,
    "ellipsis_lines": _ellipsis_lines,
    "alphabetic_words": _alphabetic_words,
    "stop_words": lambda document: document.counts.stop_words,
}
"""Numbers of words and characters; the rest are shares: of words, of lines."""
