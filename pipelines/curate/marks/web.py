"""What the rules of C4 and FineWeb count."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.curate.c4 import clean
from pipelines.curate.characters import LINE_ENDS
from pipelines.curate.config import C4Config, FineWebConfig
from pipelines.curate.marks.mark import Place, matches, pieces, seen_before, trimmed
from pipelines.curate.words import Words

_LOREM_IPSUM = re.compile("lorem ipsum", re.IGNORECASE)
_CURLY = re.compile("{")
_LINE_END = re.compile("\n")
_LAST_WORD = re.compile(r"\S+\s*\Z")


def c4_places(rule: str, text: str, config: C4Config) -> Iterator[Place]:
    """The places of a rule, named without its step; of what leaves too few sentences the lines that were removed."""
    if rule == "lorem_ipsum":
        return matches(_LOREM_IPSUM, text)
    if rule == "curly_bracket":
        return matches(_CURLY, text)
    return removed_lines(text, config)


def removed_lines(text: str, config: C4Config) -> Iterator[Place]:
    """The lines that C4's line rules take out of a text."""
    border = _LINE_END if config.keep_layout else re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
    for position, line in pieces(text, border):
        stripped = line.strip()
        if stripped and not clean(stripped, config).lines:
            yield trimmed(line, position)


def fineweb_places(rule: str, document: Words, config: FineWebConfig) -> Iterator[Place]:
    """The places of a rule, named without its step."""
    rows = [(position, line) for position, line in pieces(document.text, _LINE_END) if line and not line.isspace()]
    if rule == "line_punctuation":
        return (_last_word(line, position) for position, line in rows if line[-1] not in LINE_ENDS)
    if rule == "short_lines":
        short = config.short_line_characters
        return (trimmed(line, position) for position, line in rows if len(line) <= short)
    if rule == "duplicate_line_characters":
        return seen_before(rows)
    return iter(())


def _last_word(line: str, position: int) -> Place:
    found = _LAST_WORD.search(line)
    start = found.start() if found else 0
    return position + start, position + len(line.rstrip())
