"""From one item to its documents: a reader for each form, run in the workers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from pipelines.corpus.config import JsonlSource, SourceBase, TextSource
from pipelines.corpus.docstrings import module_markdown
from pipelines.corpus.documents import Document, Item, Problem, clean_unicode
from pipelines.corpus.files import unreadable

Reader = Callable[[Item, SourceBase], Iterator[Document | Problem]]


def read_item(item: Item, source: SourceBase) -> Iterator[Document | Problem]:
    """The documents of an item, in order, and what could not be used.

    Raises:
        UserError: a file that the user named cannot be read.
    """
    return READERS[item.form](item, source)


def _docstrings(item: Item, _: SourceBase) -> Iterator[Document | Problem]:
    try:
        text = module_markdown(Path(item.location).read_bytes(), str(item.metadata["module"]))
    except OSError as error:
        yield Problem(item.path, f"cannot be read: {error.strerror}", "unreadable")
        return
    except (SyntaxError, ValueError, RecursionError) as error:
        yield Problem(item.path, f"cannot be parsed: {error}", "not_python")
        return
    if text:
        yield _document(item, clean_unicode(text))


def _readme(item: Item, _: SourceBase) -> Iterator[Document | Problem]:
    text = metadata.PathDistribution(Path(item.location).parent).metadata.get_payload()  # type: ignore[attr-defined]
    yield _document(item, clean_unicode(str(text).strip() + "\n"))


def _licence(item: Item, _: SourceBase) -> Iterator[Document | Problem]:
    try:
        yield _document(item, Path(item.location).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        yield Problem(item.path, "is not UTF-8 text", "not_utf8")
    except OSError as error:
        yield Problem(item.path, f"cannot be read: {error.strerror}", "unreadable")


def _topic(item: Item, _: SourceBase) -> Iterator[Document | Problem]:
    from pydoc_data import topics

    yield _document(item, topics.topics[item.location])


def _text(item: Item, source: SourceBase) -> Iterator[Document | Problem]:
    assert isinstance(source, TextSource)
    try:
        text = Path(item.location).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise unreadable(Path(item.location), error) from None
    except UnicodeDecodeError as error:
        yield Problem(item.location, f"is not UTF-8 text (byte {error.start:,})", "not_utf8")
        return
    pieces = list(cut_text(text, source.max_document_bytes))
    for index, piece in enumerate(pieces):
        path = item.path if len(pieces) == 1 else f"{item.path}#{index:05d}"
        yield Document(path, piece, item.licence, item.metadata)


def cut_text(text: str, max_bytes: int) -> Iterator[str]:
    """Pieces of at most ``max_bytes`` in UTF-8 that together are the whole text.

    They are cut after blank lines, else after lines, else anywhere between characters.
    """
    if len(text.encode("utf-8")) <= max_bytes:
        yield text
        return
    held: list[str] = []
    size = 0
    for unit in _units(text, max_bytes):
        length = len(unit.encode("utf-8"))
        if held and size + length > max_bytes:
            yield "".join(held)
            held, size = [], 0
        held.append(unit)
        size += length
    if held:
        yield "".join(held)


def _units(text: str, max_bytes: int) -> Iterator[str]:
    for paragraph in re.findall(r".+?(?:\n[ \t]*\n+|\Z)", text, re.DOTALL):
        if len(paragraph.encode("utf-8")) <= max_bytes:
            yield paragraph
            continue
        for line in paragraph.splitlines(keepends=True):
            for start in range(0, len(line), max_bytes // 4):  # a character has at most four bytes
                yield line[start : start + max_bytes // 4]


def _jsonl(item: Item, source: SourceBase) -> Iterator[Document | Problem]:
    assert isinstance(source, JsonlSource)
    try:
        with Path(item.location).open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _record(item, source, number, line)
    except OSError as error:
        raise unreadable(Path(item.location), error) from None


def _record(item: Item, source: JsonlSource, number: int, line: bytes) -> Document | Problem:
    where = f"{item.location}:{number}"
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Problem(where, "is not UTF-8 text", "not_utf8")
    except (ValueError, RecursionError) as error:
        return Problem(where, f"is not valid JSON: {error}", "not_json")
    if not isinstance(record, dict) or not isinstance(record.get(source.text_field), str):
        return Problem(where, f"has no text in the field {source.text_field!r}", "no_text_field")
    text = clean_unicode(record.pop(source.text_field))
    licence = record.get(source.licence_field) if source.licence_field else None
    fields = json.loads(clean_unicode(json.dumps(record, ensure_ascii=False)))
    return Document(
        f"{item.path}:{number}",
        text,
        str(licence) if licence else item.licence,
        {**fields, **item.metadata, "line": number},
    )


def _document(item: Item, text: str) -> Document:
    return Document(item.path, text, item.licence, item.metadata)


READERS: dict[str, Reader] = {
    "docstring": _docstrings,
    "readme": _readme,
    "licence": _licence,
    "topic": _topic,
    "text": _text,
    "jsonl": _jsonl,
}
