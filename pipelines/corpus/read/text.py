"""Plain text and Markdown files: streamed, decoded strictly, long ones cut."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from io import BufferedReader

from pipelines.corpus.config import TextSource
from pipelines.corpus.cutting import cut_stream
from pipelines.corpus.documents import BadInput, Document, Item, Outcome
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import open_text

_PIECE_BYTES = 256 << 10


def read_text(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """The file as one document, or as several (``path#00000``, …); what is before damage is kept of a long one."""
    assert isinstance(source, TextSource)
    with open_text(item.location, source) as stream:
        yield from pieces(_decoded(stream, source.encoding), item, source.max_document_bytes)


def pieces(texts: Iterable[str], item: Item, max_bytes: int) -> Iterator[Document]:
    """Documents of one text that comes in parts; they are numbered where there are several."""
    number = 0
    held: str | None = None
    for piece in cut_stream(texts, max_bytes):
        if held is not None:
            yield Document(f"{item.path}#{number:05d}", held, item.licence, item.metadata)
            number += 1
        held = piece
    if held is not None:
        path = f"{item.path}#{number:05d}" if number else item.path
        yield Document(path, held, item.licence, item.metadata)


def _decoded(stream: BufferedReader, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    at = 0
    while True:
        data = stream.read1(_PIECE_BYTES)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            name = "UTF-8" if encoding == "utf-8" else encoding
            raise BadInput(
                f"not_{name.lower().replace('-', '')}", f"is not {name} text (byte {at - pending + error.start:,})"
            ) from None
        yield text
        at += len(data)
        if not data:
            return
