"""Unicode normalisation that keeps lines and indentation."""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ud800-\udfff]")
"""C0 and C1 controls other than tab and line ends, soft hyphen, zero-width space, word joiner, byte-order mark, and
surrogates. Zero-width joiners stay: several scripts and emoji need them."""
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_MOST_ROUNDS = 8


def normalise(text: str) -> str:
    """The text repaired and in NFC, ending in one line end (or empty); applying it again changes nothing.

    Mojibake is undone with ftfy (Speer 2019); ASCII text cannot have any and skips that.
    """
    for _ in range(_MOST_ROUNDS):
        cleaned = _clean(text)
        if cleaned == text or cleaned.isascii():
            return cleaned
        text = cleaned  # a repair, or a line that is gone, can make room for another repair
    return text


def _clean(text: str) -> str:
    text = _REMOVED.sub("", _LINE_ENDS.sub("\n", text))
    if not text.isascii():
        import ftfy

        text = unicodedata.normalize("NFC", ftfy.fix_encoding(_SPACES.sub(" ", text)))
        text = _SPACES.sub(" ", _REMOVED.sub("", _LINE_ENDS.sub("\n", text)))
    text = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text)).strip("\n")
    return text + "\n" if text.strip() else ""
