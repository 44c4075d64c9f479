"""Long texts in pieces: at blank lines where possible, from a stream of which a few pieces' worth is held."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_BLANK_LINES = re.compile(r"\n[ \t]*\n+(?=[^\n])")
"""What ends a paragraph, where it is known that no further newline belongs to it."""


def cut_text(text: str, max_bytes: int) -> Iterator[str]:
    """Pieces of at most ``max_bytes`` in UTF-8 that together are the whole text.

    They are cut after blank lines, else after lines, else anywhere between characters.
    """
    if len(text.encode("utf-8")) <= max_bytes:
        yield text
        return
    yield from cut_stream((text,), max_bytes)


def cut_stream(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """As :func:`cut_text` for one text that comes in parts; the pieces do not depend on where the parts end."""
    held: list[str] = []
    size = 0
    for unit in _units(texts, max_bytes):
        length = len(unit.encode("utf-8"))
        if held and size + length > max_bytes:
            yield "".join(held)
            held, size = [], 0
        held.append(unit)
        size += length
    if held or not size:
        yield "".join(held)


def _units(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Paragraphs with the blank lines after them; those over ``max_bytes`` in lines, and lines in stretches."""
    for paragraph, whole in _paragraphs(texts, max_bytes):
        if whole:
            yield paragraph
            continue
        for line in paragraph.splitlines(keepends=True):
            for start in range(0, len(line), max_bytes // 4):  # a character has at most four bytes
                yield line[start : start + max_bytes // 4]


def _paragraphs(texts: Iterable[str], max_bytes: int) -> Iterator[tuple[str, bool]]:
    """(text, whether it is a paragraph that fits); one that does not fit comes in stretches of whole lines."""
    rest = ""
    long = False  # the paragraph at the beginning of rest has begun before it and does not fit
    for text in texts:
        rest += text
        start = 0
        for match in _BLANK_LINES.finditer(rest):
            paragraph = rest[start : match.end()]
            yield paragraph, not long and _fits(paragraph, max_bytes)
            start, long = match.end(), False
        rest = rest[start:]
        if len(rest) > 2 * max_bytes:  # certainly too long: give what is sure, in whole lines or whole stretches
            long = True
            end = rest.rfind("\n", 0, len(rest) - 1) + 1
            end = _before_blank_line(rest, end)
            if not end:
                step = max_bytes // 4
                end = len(rest) // step * step if not rest.endswith("\n") and not _has_break(rest) else 0
            if end:
                yield rest[:end], False
                rest = rest[end:]
    if rest:
        yield rest, not long and _fits(rest, max_bytes)


def _before_blank_line(text: str, end: int) -> int:
    """A place at or before ``end`` that is not inside the blank lines which would end the paragraph."""
    while end and text[:end].endswith("\n") and text[end:].strip(" \t\n") == "":
        end = text.rfind("\n", 0, end - 1) + 1
    return end


def _has_break(text: str) -> bool:
    return len(text.splitlines()) > 1


def _fits(text: str, max_bytes: int) -> bool:
    return len(text.encode("utf-8")) <= max_bytes
