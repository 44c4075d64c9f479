"""What Gopher's repetition rules count: repeated paragraphs, lines and n-grams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pipelines.curate.config import GopherRepetitionConfig
from pipelines.curate.marks.mark import Place, pieces, seen_before
from pipelines.curate.repetition import LINE_END, PARAGRAPH_END
from pipelines.curate.words import Words

_RULE = re.compile(r"(?:(top)|duplicate)_(\d+)_grams?")


def repetition_places(rule: str, document: Words, config: GopherRepetitionConfig) -> Iterator[Place]:
    """The places of a rule, named without its step: what is repeated, but not its first occurrence.

    Of the most frequent n-gram every occurrence.
    """
    found = _RULE.fullmatch(rule)
    if found:
        size = int(found[2])
        return (top_ngram if found[1] else repeated_ngrams)(document, size, config.symbols_are_words)
    if rule.startswith("duplicate_paragraph"):
        return repeated_paragraphs(document.text)
    return repeated_lines(document.text)


def repeated_paragraphs(text: str) -> Iterator[Place]:
    """Paragraphs that stood there before."""
    outer = len(text) - len(text.lstrip())
    return seen_before((outer + position, piece) for position, piece in pieces(text.strip(), PARAGRAPH_END))


def repeated_lines(text: str) -> Iterator[Place]:
    """Lines that stood there before."""
    return seen_before(pieces(text, LINE_END))


def top_ngram(document: Words, n: int, symbols: bool) -> Iterator[Place]:
    """Every occurrence of the most frequent n-gram of words, of equally frequent ones the first."""
    words, numbers = _words(document, symbols)
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    if not grams:
        return
    times = Counter(grams)
    best = max(times, key=times.__getitem__)  # a Counter keeps the order of first occurrences, and max the first
    for at, gram in enumerate(grams):
        if gram == best:
            yield document.spans[numbers[at]][0], document.spans[numbers[at + n - 1]][1]


def repeated_ngrams(document: Words, n: int, symbols: bool) -> Iterator[Place]:
    """N-grams whose words, written together, stood there before, read from the start as the rule does."""
    words, numbers = _words(document, symbols)
    seen = set()
    at = 0
    while at + n <= len(words):
        together = "".join(words[at : at + n])
        if together in seen:
            yield document.spans[numbers[at]][0], document.spans[numbers[at + n - 1]][1]
            at += n
        else:
            seen.add(together)
            at += 1


def _words(document: Words, symbols: bool) -> tuple[list[str], list[int]]:
    """The words that are in n-grams, and their numbers among all."""
    numbers = [*range(document.word_count)] if symbols else document.speaking
    words = document.words
    return [words[number] for number in numbers], numbers
