"""Gopher's document quality rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipelines.curate.config import GopherQualityConfig
from pipelines.curate.words import Words

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_ELLIPSES = ("...", "…")
_BULLET = re.compile(r"\s*(?:[•‣◦▪●]|[-*+]\s)")
_HEADING = re.compile(r"^[ \t]*#{1,6}(?=[ \t])", re.MULTILINE)


def judge_quality(document: Words, rules: GopherQualityConfig) -> str | None:
    """The first rule that the document breaks, or None."""
    words, count = document.words, len(document.words)
    if rules.min_words is not None and count < rules.min_words:
        return "gopher_quality.min_words"
    if rules.max_words is not None and count > rules.max_words:
        return "gopher_quality.max_words"
    if count == 0:
        return None  # every rule below is a ratio to the words
    mean = sum(map(len, words)) / count
    if rules.min_mean_word_length is not None and mean < rules.min_mean_word_length:
        return "gopher_quality.min_mean_word_length"
    if rules.max_mean_word_length is not None and mean > rules.max_mean_word_length:
        return "gopher_quality.max_mean_word_length"
    if rules.max_symbol_ratio is not None:
        hashes = document.text.count("#")
        if hashes and not rules.count_heading_marks:
            hashes -= sum(len(mark.strip()) for mark in _HEADING.findall(document.text))
        if hashes / count > rules.max_symbol_ratio:
            return "gopher_quality.hash_signs"
        if sum(map(document.text.count, _ELLIPSES)) / count > rules.max_symbol_ratio:
            return "gopher_quality.ellipses"
    lines = document.lines
    if rules.max_bullet_lines is not None and _share(lines, _is_bullet) > rules.max_bullet_lines:
        return "gopher_quality.bullet_lines"
    if rules.max_ellipsis_lines is not None and _share(lines, _is_ellipsis) > rules.max_ellipsis_lines:
        return "gopher_quality.ellipsis_lines"
    if rules.min_alphabetic_words is not None:
        alphabetic = sum(1 for word in words if word.isalpha() or any(map(str.isalpha, word)))
        if alphabetic / count < rules.min_alphabetic_words:
            return "gopher_quality.alphabetic_words"
    if rules.min_stop_words is not None and sum(word in STOP_WORDS for word in words) < rules.min_stop_words:
        return "gopher_quality.stop_words"
    return None


def _share(lines: list[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, lines)) / len(lines) if lines else 0.0


def _is_bullet(line: str) -> bool:
    return _BULLET.match(line) is not None


def _is_ellipsis(line: str) -> bool:
    return line.rstrip().endswith(_ELLIPSES)
