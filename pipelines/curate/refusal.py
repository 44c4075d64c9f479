"""Why a document goes, and the part of its text that shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.curate.redact import redact_sample

OPEN, CLOSE = "⟦", "⟧"
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for the marks until a text is redacted; for private use, and taken out of texts that hold them."""
_BLANK = re.compile(r"\s")


@dataclass(frozen=True)
class Refusal:
    """One document's refusal.

    Attributes:
        reason: step and rule, as the funnel counts it.
        part: start and end, in characters of the cleaned text, of what offends; None where it is the whole.
    """

    reason: str
    part: tuple[int, int] | None = None


def excerpt(text: str, part: tuple[int, int], characters: int) -> str:
    """About so many characters around a part, which stands between ⟦ and ⟧; personal data is redacted."""
    text = text.replace(_OPEN, "?").replace(_CLOSE, "?")
    start, end = part
    while start > 0 and not _BLANK.match(text[start - 1]):
        start -= 1  # whole words between blanks: a mark inside an address would hide it from the redaction
    found = _BLANK.search(text, end)
    end = found.start() if found else len(text)
    marked = redact_sample(f"{text[:start]}{_OPEN}{text[start:end]}{_CLOSE}{text[end:]}")
    first, last = marked.index(_OPEN), marked.index(_CLOSE)
    around = max(0, characters - (last - first)) // 2
    left, right = max(0, first - around), min(len(marked), last + 1 + around)
    shown = marked[left:right].replace(_OPEN, OPEN).replace(_CLOSE, CLOSE)
    return ("… " if left else "") + shown + (" …" if right < len(marked) else "")
