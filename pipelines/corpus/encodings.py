"""Names of character encodings that texts are really in."""

from __future__ import annotations

import codecs

_NOT_OF_TEXTS = {"undefined", "idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"}
"""Python has these among its encodings of text; they fail in ways of their own, and browsers refuse them."""


def find_encoding(name: str) -> str | None:
    """Python's name for an encoding of text, or None."""
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    return found.name if getattr(found, "_is_text_encoding", True) and found.name not in _NOT_OF_TEXTS else None
