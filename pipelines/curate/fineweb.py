"""FineWeb's rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6), counted as datatrove does.

They are for web pages behind C4's rules: lists, menus and code break them by design.
"""

from __future__ import annotations

import functools

from pipelines.curate.characters import LINE_ENDS
from pipelines.curate.config import FineWebConfig
from pipelines.curate.repetition import repeated_pieces
from pipelines.curate.rules import Measures, RuleSet, at_least, at_most
from pipelines.curate.words import Words


def fineweb(thresholds: FineWebConfig) -> RuleSet[Words]:
    """The rules with these thresholds, in datatrove's order."""
    short = thresholds.short_line_characters
    limits = (
        *at_least("fineweb.empty", "lines", 1),
        *at_least("fineweb.line_punctuation", "punctuated_lines", thresholds.min_punctuated_lines),
        *at_most("fineweb.short_lines", f"lines_up_to_{short}_characters", thresholds.max_short_lines),
        *at_most(
            "fineweb.duplicate_line_characters", "duplicate_line_characters", thresholds.max_duplicate_line_characters
        ),
        *at_most("fineweb.line_ends", "line_ends", thresholds.max_line_ends),
    )
    return RuleSet(_measures(short), limits)


@functools.cache
def _measures(short: int) -> Measures[Words]:
    return {
        "lines": lambda document: len(document.lines),
        "punctuated_lines": _punctuated_lines,
        f"lines_up_to_{short}_characters": functools.partial(_short_lines, characters=short),
        "duplicate_line_characters": _duplicate_line_characters,
        "line_ends": _line_ends,
    }


def _punctuated_lines(document: Words) -> float:
    lines = document.lines
    return sum(line[-1] in LINE_ENDS for line in lines) / max(len(lines), 1)


def _short_lines(document: Words, characters: int) -> float:
    lines = document.lines
    return sum(len(line) <= characters for line in lines) / max(len(lines), 1)


def _duplicate_line_characters(document: Words) -> float:
    return repeated_pieces(document.lines)[1] / max(document.size - document.line_ends, 1)


def _line_ends(document: Words) -> float:
    return document.line_ends / max(document.word_count, 1)
