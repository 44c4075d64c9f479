"""What Gopher's quality rules count."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.curate.config import GopherQualityConfig
from pipelines.curate.counts import STOP_WORDS
from pipelines.curate.marks.mark import Place, lines, matches
from pipelines.curate.quality import BULLETS, ELLIPSES, HEADING
from pipelines.curate.words import Words

_HASH = re.compile("#")
_ELLIPSIS = re.compile("|".join(map(re.escape, ELLIPSES)))
_OPENING_BULLET = re.compile(rf"\s*({'|'.join(map(re.escape, BULLETS))})")


def quality_places(rule: str, document: Words, config: GopherQualityConfig) -> Iterator[Place]:
    """The places of a rule, named without its step; none where something is missing, or the whole is too long."""
    text = document.text
    if rule == "hash_signs":
        return matches(_HASH, text) if config.count_heading_marks else _hash_signs_outside_headings(text)
    if rule == "ellipses":
        return matches(_ELLIPSIS, text)
    if rule == "bullet_lines":
        return lines(text, lambda line: line.lstrip().startswith(BULLETS))
    if rule == "ellipsis_lines":
        return lines(text, lambda line: line.rstrip().endswith(ELLIPSES))
    if rule == "alphabetic_words":
        return _words_without_letters(document, symbols=config.symbols_are_words)
    if rule == "max_mean_word_length" and config.max_mean_word_length is not None:
        return _words_of(document, config.max_mean_word_length, longer=True)
    if rule == "min_mean_word_length" and config.min_mean_word_length is not None:
        return _words_of(document, config.min_mean_word_length, longer=False)
    return iter(())


def stop_words_said(document: Words) -> str:
    """Which of the eight stop words stand in a document, in words."""
    there = {*document.words}
    found = [word for word in STOP_WORDS if word in there]
    return f"found: {', '.join(found) or 'none'}; looked for: {', '.join(STOP_WORDS)}"


def _hash_signs_outside_headings(text: str) -> Iterator[Place]:
    headings = {position for found in HEADING.finditer(text) for position in range(*found.span())}
    return (place for place in matches(_HASH, text) if place[0] not in headings)


def _words_without_letters(document: Words, *, symbols: bool) -> Iterator[Place]:
    words, spans = document.words, document.spans
    for number in range(len(words)) if symbols else document.speaking:
        if not any(map(str.isalpha, words[number])):
            yield spans[number]


def _words_of(document: Words, length: float, *, longer: bool) -> Iterator[Place]:
    """Words that are more than symbols and longer (or shorter) than the mean may be."""
    for number in document.speaking:
        start, end = document.spans[number]
        if (end - start > length) if longer else (end - start < length):
            yield start, end
