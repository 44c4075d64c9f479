"""JSON Lines, line by line; a large plain file is read in several byte ranges at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipelines.corpus.config import JsonlSource
from pipelines.corpus.documents import Document, Item, Outcome, Problem
from pipelines.corpus.read.fields import to_document
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import Line, bounded_lines, open_file, open_text


def read_jsonl(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """A document for each line that is not blank: ``path:line``, or ``path@byte`` in a later range of a large file."""
    assert isinstance(source, JsonlSource)
    if item.span is None:
        with open_text(item.location, source) as stream:
            for line in bounded_lines(stream, source.max_record_bytes):
                yield from _of_line(line, f"{item.path}:{line.number}", {"line": line.number}, item, source)
        return
    start, end = item.span
    with open_file(item.location) as stream:
        stream.seek(max(start - 1, 0))
        at = 0
        if start:  # a line belongs to the range that its first byte lies in
            at = start - 1
            while not (data := stream.readline(1 << 16)).endswith(b"\n") and data:
                at += len(data)
            at += len(data)
        for line in bounded_lines(stream, source.max_record_bytes, at):
            if line.offset >= end:
                return
            place = (f"{item.path}@{line.offset}", {"byte": line.offset})
            if start == 0:
                place = (f"{item.path}:{line.number}", {"line": line.number})
            yield from _of_line(line, *place, item, source)


def _of_line(line: Line, path: str, about: dict[str, int], item: Item, source: JsonlSource) -> Iterator[Outcome]:
    if line.data is None:
        yield Problem(path, f"is over {source.max_record_bytes:,} bytes long", "too_large", line.head)
    elif line.data.strip():
        yield _record(line.data, path, about, item, source, line.head)


def _record(
    data: bytes, path: str, about: dict[str, int], item: Item, source: JsonlSource, head: bytes
) -> Document | Problem:
    try:
        record = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Problem(path, "is not UTF-8 text", "not_utf8", head)
    except (ValueError, RecursionError) as error:
        return Problem(path, f"is not valid JSON: {error}", "not_json", head)
    if not isinstance(record, dict):
        return Problem(path, f"has no text in the field {source.text_field!r}: it is no object", "no_text_field", head)
    return to_document(record, source, item, path, about, head)
