"""What passes between listing a source, reading it and the corpus table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """Something a worker can read by itself: a file, a package's README, one help topic.

    Attributes:
        form: how to read it (``docstring``, ``readme``, ``licence``, ``topic``, ``text``, ``jsonl``).
        path: its logical name inside the source, the same on every machine.
        location: where it is on this machine; never part of a document or an identity.
        estimated_bytes: about how much text it gives; order and parts follow from it, so it depends on the files only.
    """

    form: str
    path: str
    location: str
    estimated_bytes: int
    licence: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """One text with its logical path, licence and metadata (plain JSON values)."""

    path: str
    text: str
    licence: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """Input that could not be used: where it is, what is wrong, and a word to count it by."""

    where: str
    what: str
    reason: str


def document_id(source: str, path: str) -> str:
    """24 hex digits that depend only on the source's name and the document's logical path."""
    return hashlib.sha256(f"{source}\0{path}".encode("utf-8", "surrogatepass")).hexdigest()[:24]


def stable_order(path: str) -> bytes:
    """A key that puts paths in an order which looks random and is the same everywhere."""
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()


def clean_unicode(text: str) -> str:
    """The text with lone surrogates (legal in JSON, not in UTF-8) replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
