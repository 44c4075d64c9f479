"""What was listed among the files of a source and is none: a pipe, a device, a link that leads nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.corpus.documents import BadInput, Item, Outcome
from pipelines.corpus.source import SourceBase
from pipelines.corpus.walking import why_unusable


def read_unusable(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """One problem that says what it is."""
    try:
        why = why_unusable(Path(item.location))
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    raise BadInput("no_file", why or "was no file when the source was listed")
    yield  # a reader is a generator
