"""Comma- and tab-separated values with a header (RFC 4180), row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from pipelines.corpus.config import CsvSource
from pipelines.corpus.documents import BadInput, Item, Outcome, Problem
from pipelines.corpus.read.fields import to_document
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import bounded_lines, open_text


def read_csv(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """A document for each row, ``path:line`` by the line that the row begins on."""
    assert isinstance(source, CsvSource)
    csv.field_size_limit(source.max_record_bytes)
    delimiter = source.delimiter or ("\t" if ".tsv" in item.path.lower() else ",")
    with open_text(item.location, source) as stream:
        feed = _Feed(bounded_lines(stream, source.max_record_bytes), source)
        rows = csv.reader(feed, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            feed.begin()
            try:
                row = next(rows, None)
            except csv.Error as error:
                row, feed.damage = [], feed.damage or BadInput("not_csv", f"is not valid CSV: {error}")
            if row is None:
                return
            path = f"{item.path}:{feed.first}"
            if feed.damage:
                if header is None:
                    raise feed.damage
                yield Problem(path, feed.damage.what, feed.damage.reason, feed.head)
            elif header is None:
                header = _header(row, source)
            elif row:
                yield from _of_row(row, header, path, feed, item, source)


def _header(row: list[str], source: CsvSource) -> list[str]:
    names = [name.strip() for name in row]
    if source.text_field not in names:
        known = ", ".join(names[:20])[:300]
        raise BadInput("no_text_field", f"its header has no column {source.text_field!r} but {known!r}")
    return names


def _of_row(
    row: list[str], header: list[str], path: str, feed: _Feed, item: Item, source: CsvSource
) -> Iterator[Outcome]:
    if len(row) != len(header):
        what = f"has {len(row):,} values where the header has {len(header):,}"
        yield Problem(path, what, "wrong_columns", feed.head)
        return
    record: dict[str, Any] = dict(zip(header, row, strict=True))
    yield to_document(record, source, item, path, {"line": feed.first}, feed.head)


class _Feed:
    """The lines of one row after the other, with what was wrong among them and where the row began."""

    def __init__(self, lines: Iterator[Any], source: CsvSource) -> None:
        self._lines = lines
        self._encoding = source.encoding
        self._longest = source.max_record_bytes
        self._row_bytes = 0
        self._fresh = True
        self.first = 1
        self.head = b""
        self.damage: BadInput | None = None

    def begin(self) -> None:
        """The next line begins a row."""
        self._fresh, self._row_bytes, self.damage = True, 0, None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if self._fresh:
            self.first, self.head, self._fresh = line.number, line.head, False
        if line.data is None:
            self.damage = BadInput("too_large", f"has a line of over {self._longest:,} bytes")
            return "\n"
        self._row_bytes += len(line.data)
        if self._row_bytes > self._longest:  # a quote that never ends takes the rest of the file into one value
            raise csv.Error(f"a row of over {self._longest:,} bytes; is a quote left open?")
        try:
            encoding = "utf-8-sig" if self._encoding == "utf-8" and line.number == 1 else self._encoding
            return str(line.data.decode(encoding))
        except UnicodeDecodeError:
            self.damage = BadInput(
                "not_utf8" if encoding.startswith("utf-8") else "not_text", f"is not {encoding} text"
            )
            return str(line.data.decode(encoding, "replace"))
