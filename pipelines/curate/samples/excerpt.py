"""A piece of a document for a page that people pass on: cut around its marks, without personal data."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pipelines.curate.marks.mark import Place, joined
from pipelines.curate.redact import EVERY_TYPE, PLACEHOLDERS, RedactConfig, Redactor

Piece = tuple[str, bool]
"""Text, and whether it is marked."""

CHARACTERS = 700
BEFORE_A_MARK = 160
_LONGEST_WORD = 40
_MARGIN = 16_000
"""Characters that are looked through for personal data on both sides of what is shown: longer than a private key."""


def excerpt(text: str, places: Sequence[Place] = (), characters: int = CHARACTERS) -> tuple[Piece, ...]:
    """About ``characters`` of a text where most of it is marked (its beginning where nothing is), in pieces.

    However large the text is, little more than what is shown is looked at. All that is recognised as personal data is
    replaced, whatever the recipe's own settings; a mark that touches it marks the placeholder.
    """
    shown = _window(text, places, characters)
    start, end = max(0, shown[0] - _MARGIN), min(len(text), shown[1] + _MARGIN)
    inside = [(max(a, shown[0]) - start, min(b, shown[1]) - start) for a, b in places if b > shown[0] and a < shown[1]]
    clean, (window, *marks) = _redacted(text[start:end], [(shown[0] - start, shown[1] - start), *inside])
    first, last = window[0], min(window[1], window[0] + 2 * characters)
    pieces: list[Piece] = [("… ", False)] if shown[0] > 0 else []
    if shown[1] < len(text):  # no word is cut, unless it is very long
        last = next(
            (at for at in range(last, max(first, last - _LONGEST_WORD), -1) if clean[at : at + 1].isspace()), last
        )
    for a, b in joined(marks):
        a, b = min(a, last), min(b, last)
        if pieces and pieces[-1][1] and clean[first:a].isspace():
            pieces[-1] = (pieces[-1][0] + clean[first:b], True)
        else:
            pieces += [(clean[first:a], False), (clean[a:b], True)]
        first = b
    pieces.append((clean[first:last], False))
    if shown[1] < len(text):
        pieces.append((f" … ({len(text):,} characters)", False))
    return tuple(piece for piece in pieces if piece[0])


def _window(text: str, places: Sequence[Place], characters: int) -> Place:
    """Where most marked characters are within reach, beginning a little before the first of them."""
    best_start, most, last = 0, 0, 0
    before = min(BEFORE_A_MARK, characters // 4)
    reach = characters - before
    covered = 0
    for number, (start, _) in enumerate(places):
        while last < len(places) and places[last][0] < start + reach:
            covered += min(places[last][1] - places[last][0], reach)
            last += 1
        if min(covered, reach) > most:
            best_start, most = start, min(covered, reach)
        covered -= min(places[number][1] - places[number][0], reach)
    start = max(0, best_start - before)
    if start:  # behind a blank, so that no word is cut
        start = next((at + 1 for at in range(start, best_start) if text[at].isspace()), start)
    return start, min(len(text), start + characters)


def _redacted(text: str, places: Sequence[Place]) -> tuple[str, list[Place]]:
    """The text with placeholders, and the places in it."""
    redactor = _redactor()
    while spans := redactor.find(text):
        pieces: list[str] = []
        borders: list[tuple[int, int, int, int]] = []  # of each replaced span: from, to, and the same in the new text
        done = length = 0
        for start, end, kind in spans:
            placeholder = PLACEHOLDERS[kind]
            length += start - done
            pieces += (text[done:start], placeholder)
            borders.append((start, end, length, length + len(placeholder)))
            length += len(placeholder)
            done = end
        text = "".join([*pieces, text[done:]])
        places = [(_moved(start, borders, True), _moved(end, borders, False)) for start, end in places]
    return text, [*places]


def _moved(place: int, borders: Sequence[tuple[int, int, int, int]], is_start: bool) -> int:
    """Where a place stands in the new text; inside of what was replaced, the placeholder's beginning or end."""
    shift = 0
    for start, end, new_start, new_end in borders:
        if place <= start:
            break
        if place < end:
            return new_start if is_start else new_end
        shift = new_end - end
    return place + shift


@functools.cache
def _redactor() -> Redactor:
    return Redactor(RedactConfig.model_validate({"types": EVERY_TYPE}))
