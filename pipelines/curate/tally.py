"""Counts of documents and of their text, that add up over parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.curate.classifier.model import score_bin

Key = tuple[str, str]

NOT_KNOWN = "not identified"
CLEANED = "cleaning"
"""What normalising, C4's line rules and redaction take out of documents that pass (less what they put in)."""
PASSAGES = "repeated passages"
"""What is taken out of documents that stay, since it stands elsewhere too."""


def utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


@dataclass
class Tally:
    """Documents and their text by source, kind and licence, and how long they are.

    Attributes:
        documents, bytes, characters, words: (field, value) -> number; words are what stands between blanks.
        licences: (source, licence) -> documents.
        lengths: bits of the number of characters -> documents: 7 are those of 64 to 127 characters.
        languages: language -> documents.
        scores: column of the classifier's plot -> documents, of those that it judged.
    """

    documents: Counter[Key] = field(default_factory=Counter)
    bytes: Counter[Key] = field(default_factory=Counter)
    characters: Counter[Key] = field(default_factory=Counter)
    words: Counter[Key] = field(default_factory=Counter)
    licences: Counter[Key] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of the corpus table."""
        text = row["text"]
        size, words = utf8_bytes(text), len(text.split())
        kind = str(json.loads(row["metadata"]).get("kind", "")) or "none"
        for key in (("source", row["source"]), ("kind", kind), ("licence", row["licence"]), ("all", "all")):
            self.documents[key] += 1
            self.bytes[key] += size
            self.characters[key] += len(text)
            self.words[key] += words
        self.licences[row["source"], row["licence"]] += 1
        self.lengths[len(text).bit_length()] += 1

    def add_judged(self, row: Mapping[str, Any]) -> None:
        """Count what is known of a row once it was judged: its language, identified or declared, and its score."""
        self.languages[row.get("language") or NOT_KNOWN] += 1
        if row.get("quality_score") is not None:
            self.scores[score_bin(row["quality_score"])] += 1

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        for own, theirs in self._with(other):
            own.update(theirs)

    def remove(self, other: Tally) -> None:
        """Take another tally, of documents that were counted here, off this one."""
        for own, theirs in self._with(other):
            own.subtract(theirs)

    def _with(self, other: Tally) -> list[tuple[Counter[Any], Counter[Any]]]:
        return [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]


@dataclass
class Flow:
    """Text that leaves on the way, by reason; CLEANED and PASSAGES leave without their documents.

    What came in is what was kept and all of this, to the character and to the byte.
    """

    characters: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, text: str, instead: str = "") -> None:
        """A text leaves, or all of it but what stands there instead."""
        self.characters[reason] += len(text) - len(instead)
        self.bytes[reason] += utf8_bytes(text) - utf8_bytes(instead)

    def merge(self, other: Flow) -> None:
        """Add what leaves elsewhere."""
        self.characters.update(other.characters)
        self.bytes.update(other.bytes)
