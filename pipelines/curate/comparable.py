"""What near-duplicates are compared by: a text without case, punctuation, digits' values and accents, cut into words.

The words are those of datatrove's MinHash (its ``simplify_text``, then spaCy's English rules), so that decisions are
the same; they come from a memo, since both the accents and the rules are local to what stands between two blanks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

_MARKS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
_CONTROLS = "".join(map(chr, [*range(9), 11, 12, *range(13, 32), *range(127, 160)]))
_SPACES = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_BLANKS_BEYOND_ASCII = {each for each in _MARKS + _CONTROLS + _SPACES if not each.isascii()}
_ASCII_TO_BLANK = bytes(32 if i < 128 and chr(i) in _MARKS + _CONTROLS else i for i in range(256))
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_DECIMAL_MARKS = "،٫⎖⎗⎘"
_NUMBER = re.compile(r"\d+(?:[.,،٫⎖⎗⎘]\d+)?")
_ASCII_NUMBER = re.compile(rb"[0-9]+(?:[.,][0-9]+)?")
_PLAIN = re.compile("[a-z]+[0-9]*|[0-9]+")
"""Chunks that only an exception cuts: all of spaCy's English affixes have a mark in them, or a unit after a digit."""
_LONGEST_CHUNK = 1000
"""Characters; what is longer is one word (the tokenizer would need time quadratic in it), and not remembered."""
_MEMO_CHUNKS = 1_000_000
"""Different chunks remembered: about 150 MB. Then the memo starts anew, and memory stays bounded."""

Rules = Literal["reference", "fast"]


class ComparableText:
    """Texts as their comparable words in UTF-8, one blank between two.

    Args:
        rules: ``reference`` cuts a chunk as spaCy's English tokenizer does (``cannot`` is two words); ``fast`` takes
            it whole, and needs no spaCy in memory.
    """

    def __init__(self, rules: Rules = "reference") -> None:
        self._cut: Callable[[str], str] = _reference_rules() if rules == "reference" else str
        self._memo: dict[bytes, bytes] = _Memo(self._cut)

    def encode(self, text: str) -> bytes:
        """The words of one text."""
        if len(self._memo) > _MEMO_CHUNKS:
            self._memo.clear()
        return b" ".join(filter(None, map(self._memo.__getitem__, _chunks(text))))


class _Memo(dict[bytes, bytes]):
    """Chunk -> its words, joined by blanks (nothing where only accents were)."""

    def __init__(self, cut: Callable[[str], str]) -> None:
        self._cut = cut

    def __missing__(self, chunk: bytes) -> bytes:
        text = chunk.decode("utf-8", "surrogatepass")
        if not text.isascii():
            text = unicodedata.normalize("NFD", text)
            text = "".join(each for each in text if unicodedata.category(each) != "Mn")
        words = (self._cut(text) if len(text) <= _LONGEST_CHUNK else text).encode("utf-8", "surrogatepass")
        if len(chunk) <= _LONGEST_CHUNK:
            self[chunk] = words
        return words


def _chunks(text: str) -> list[bytes]:
    """What stands between blanks once case and punctuation are gone and every number is 0."""
    lower = text.lower()
    beyond = set() if lower.isascii() else set(_BEYOND_ASCII.findall(lower))
    unusual = any(each in _DECIMAL_MARKS or each.isdecimal() for each in beyond)
    if unusual:
        lower = _NUMBER.sub("0", lower)
    for each in beyond & _BLANKS_BEYOND_ASCII:
        lower = lower.replace(each, " ")
    # In UTF-8 the bytes below 128 are ASCII characters and nothing else.
    encoded = lower.encode("utf-8", "surrogatepass")
    return (encoded if unusual else _ASCII_NUMBER.sub(b"0", encoded)).translate(_ASCII_TO_BLANK).split()


def _reference_rules() -> Callable[[str], str]:
    from pipelines.curate.english import english_tokenizer

    tokenizer, vocabulary = english_tokenizer()
    exceptions = frozenset(tokenizer.rules)

    def cut(chunk: str) -> str:
        if _PLAIN.fullmatch(chunk) and chunk not in exceptions:
            return chunk
        with vocabulary.memory_zone():
            return " ".join([token.text for token in tokenizer(chunk)])

    return cut
