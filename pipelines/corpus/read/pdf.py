"""PDF files: the text that they hold, page after page, by PDFium in the helper process."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.corpus.aside import ASIDE
from pipelines.corpus.config import PdfSource
from pipelines.corpus.documents import BadInput, Document, Item, Outcome, PassedOver, clean_unicode
from pipelines.corpus.read.text import pieces
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import open_file, open_text
from pipelines.corpus.unpacking import compression

_BROKEN_WORD = re.compile("[\ufffe\u0002]\n?")
"""PDFium's mark for a hyphen that only divides a word at a line's end."""


def read_pdf(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """The file's text; pages are separated by a blank line, title and page count are in the metadata."""
    assert isinstance(source, PdfSource)
    with tempfile.TemporaryDirectory(prefix="raymill-pdf-") as folder:
        place = _local(item, source, Path(folder) / "file.pdf")
        pages, about = ASIDE.call(
            "pipelines.corpus.read.pdf:extract", source.max_cpu_seconds, place, source.max_record_bytes
        )
    text = "\n\n".join(page for page in pages if page)
    if not text:
        yield PassedOver("pdf_without_text")
        return
    for piece in pieces((text + "\n",), item, source.max_document_bytes):
        yield Document(piece.path, piece.text, piece.licence, about | dict(item.metadata))


def _local(item: Item, source: PdfSource, target: Path) -> str:
    """A local path of the file, as PDFium wants to seek in it; copied where it is compressed or in S3."""
    with open_file(item.location) as stored:
        packed = compression(stored.read(6)) is not None
    if not packed and "://" not in item.location:
        if Path(item.location).stat().st_size > source.max_record_bytes:
            raise BadInput("too_large", f"is over {source.max_record_bytes:,} bytes")
        return item.location
    with open_text(item.location, source) as stream, target.open("wb") as copy:
        while data := stream.read(1 << 20):
            copy.write(data)
            if copy.tell() > source.max_record_bytes:
                raise BadInput("too_large", f"is over {source.max_record_bytes:,} bytes")
    return str(target)


def extract(place: str, most: int) -> tuple[list[str], dict[str, object]]:
    """(texts of the pages, metadata) of a PDF file. Runs in the helper process.

    Raises:
        BadInput: it is not a PDF that can be opened without a password, or has over ``most`` bytes of text.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(place)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise BadInput("locked", "is locked with a password") from None
        raise BadInput("damaged", f"is no PDF file, or a damaged one: {error}") from None
    pages = []
    size = 0
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage().get_text_range()
            page.close()
        except pypdfium2.PdfiumError as error:
            raise BadInput("damaged", f"its page {number + 1:,} cannot be read: {error}") from None
        text = _BROKEN_WORD.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
        pages.append(clean_unicode(text.replace("\0", "")).strip())
        size += len(pages[-1])
        if size > most:
            raise BadInput("too_large", f"has over {most:,} characters of text")
    title = " ".join(clean_unicode(document.get_metadata_value("Title")).split())
    return pages, {"pages": len(pages)} | ({"title": title} if title else {})
