"""What passes between listing a source, reading it and the corpus table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """Something a worker can read by itself: a file, a range of a large one, a package's README, one help topic.

    Attributes:
        form: how to read it (a key of ``pipelines.corpus.readers.READERS``).
        path: its logical name inside the source, the same on every machine.
        location: where it is (a local path or s3://…); never part of a document or an identity.
        estimated_bytes: about how much text it gives; order and parts follow from it, so it depends on the files only.
        span: the half-open range that it means of a file that is read in several parts: of bytes, or of row groups.
    """

    form: str
    path: str
    location: str
    estimated_bytes: int
    licence: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Document:
    """One text with its logical path, licence, metadata (plain JSON values) and declared language, if any."""

    path: str
    text: str
    licence: str
    metadata: Mapping[str, Any]
    language: str | None = None


FIRST_BYTES = 256


@dataclass(frozen=True)
class Problem:
    """Input that could not be used: where it is, what is wrong, a word to count it by, and how it begins.

    Attributes:
        where: its logical path inside the source, with line, record or row.
    """

    where: str
    what: str
    reason: str
    first_bytes: bytes = b""


@dataclass(frozen=True)
class PassedOver:
    """A record that is in order but no document: a request, an image, an error page, a page without text."""

    reason: str


Outcome = Document | Problem | PassedOver


class BadInput(Exception):
    """Input that cannot be read on from here; the reader's caller makes a Problem of it.

    Args:
        reason: a word to count it by.
        what: what is wrong, as the end of a sentence about the file.
    """

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(reason, what)
        self.reason = reason
        self.what = what


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
