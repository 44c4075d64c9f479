"""Web archives (WARC, ISO 28500:2017) record by record: pages as fetched, or Common Crawl's extracted text (WET)."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

from pipelines.corpus.config import WarcSource, WetSource
from pipelines.corpus.documents import BadInput, Document, Item, Outcome, PassedOver, Problem, clean_unicode
from pipelines.corpus.read.web import decode_page, page_document
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import open_text

_HTML = frozenset({"text/html", "application/xhtml+xml"})
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


def read_archive(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """The documents of an archive, records that are none passed over; what is after a broken header is lost."""
    from fastwarc.warc import ArchiveIterator

    assert isinstance(source, WarcSource | WetSource)
    number = 0
    outcome: Outcome | None = None
    with open_text(item.location, source) as stream:
        feed = _Forward(stream)
        records = iter(ArchiveIterator(feed, parse_http=False, stream_detect=False))
        while True:
            try:
                record = next(records, None)
                if record is None:
                    break
                number += 1
                outcome = _of_record(record, number, item, source)
            except (OSError, ValueError) as error:
                raise BadInput("broken_record", f"record {number + 1} cannot be found: {error}") from None
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # what a panic in fastwarc's Rust arrives as
                    raise
                raise BadInput("crashes_parser", f"the library that reads it crashed at record {number + 1}") from None
            if feed.broken:  # the record is only where the damage of the file showed
                raise feed.broken
            yield outcome
    if number == 0:
        raise BadInput("no_records", "holds no WARC record")
    if not feed.ends_a_record and not isinstance(outcome, Problem):
        raise BadInput("truncated", "ends in the middle of a record")


class _Forward(io.RawIOBase):
    """A stream that can only be read, with the position that fastwarc asks for."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._at = 0
        self._last = b""
        self.broken: BadInput | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._stream.read1(size)
        except BadInput as error:
            self.broken = error
            raise
        self._at += len(data)
        self._last = data[-1:] or self._last
        return data

    @property
    def ends_a_record(self) -> bool:
        """Whether the last byte read can end a record: two line ends follow each."""
        return self._last == b"\n"

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        target = offset if whence == 0 else self._at + offset
        if whence == 2 or target < self._at:
            raise io.UnsupportedOperation("seek")
        while self._at < target and self.read(min(target - self._at, 1 << 16)):
            continue
        return self._at


def _of_record(record: Any, number: int, item: Item, source: WarcSource | WetSource) -> Outcome:
    path = f"{item.path}:{number}"
    kind = str(record.record_type)
    wanted = ("conversion",) if isinstance(source, WetSource) else ("response", "resource")
    if kind not in wanted:
        return PassedOver(f"{kind}_record")
    head = b""
    try:
        if record.content_length > source.max_record_bytes:
            raise BadInput("too_large", f"its record is over {source.max_record_bytes:,} bytes")
        if kind == "response":
            if not record.headers.get("Content-Type", "").lower().startswith("application/http"):
                return PassedOver("no_http_response")
            record.parse_http(quirks_mode=True)
            if record.http_headers.status_code != 200:
                return PassedOver("http_status")
        said = record.content_length
        data = head = record.reader.read(said)
        if len(data) < said:
            raise BadInput("truncated", f"its record says {said:,} bytes and has {len(data):,}")
        return _of_payload(record, kind, data, path, item, source)
    except BadInput as error:
        return Problem(path, error.what, error.reason, head[:256])
    except (OSError, ValueError) as error:
        return Problem(path, f"its record is damaged: {error}", "broken_record", head[:256])


def _of_payload(
    record: Any, kind: str, data: bytes, path: str, item: Item, source: WarcSource | WetSource
) -> Document | PassedOver:
    about = {name: value for name, value in _about(record).items() if value} | dict(item.metadata)
    if isinstance(source, WetSource):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadInput("not_utf8", f"is not UTF-8 text (byte {error.start:,} of the record)") from None
        languages = record.headers.get("WARC-Identified-Content-Language")
        if languages:
            about["identified_language"] = languages
        return Document(path, text, item.licence, about) if text.strip() else PassedOver("page_without_text")
    if kind == "response":
        media, charset = record.http_content_type, record.http_charset
        data = decode_body(data, record.http_headers, source.max_record_bytes)
    else:
        media, charset = record.headers.get("Content-Type", "").partition(";")[0].strip().lower(), None
    if media in _HTML or (not media and data[:512].lstrip()[:1] == b"<"):
        return page_document(data, charset, source.main_content, source.max_cpu_seconds, path, item, about)
    if media == "text/plain" and kind == "response":
        text = clean_unicode(decode_page(data, charset))
        return Document(path, text, item.licence, about) if text.strip() else PassedOver("page_without_text")
    return PassedOver("other_media_type")


def _about(record: Any) -> dict[str, Any]:
    return {
        "url": (record.headers.get("WARC-Target-URI") or "").strip("<>"),
        "date": record.headers.get("WARC-Date"),
        "record_id": (record.record_id or "").strip("<>"),
        "truncated": record.headers.get("WARC-Truncated"),  # by the crawler, on purpose
    }


def decode_body(data: bytes, headers: Any, most: int) -> bytes:
    """An HTTP body without its transfer and content coding (RFC 9112, section 7.1; RFC 9110, section 8.4).

    Crawlers store bodies that they have decoded under headers that still name the coding: what does not look coded is
    taken as it is.

    Raises:
        BadInput: it is cut off or damaged, unpacks to more than ``most`` bytes, or is coded in a way not known here.
    """
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
        data = _join_chunks(data)
    codings = [each.strip().lower() for each in (headers.get("Content-Encoding") or "").split(",")]
    for coding in reversed(codings):
        if coding in ("gzip", "x-gzip"):
            data = _inflate(data, 31, most) if data.startswith(b"\x1f\x8b") else data
        elif coding == "deflate":
            zlib_header = len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            data = data if data[:64].lstrip()[:1] == b"<" else _inflate(data, 15 if zlib_header else -15, most)
        elif coding == "br":
            data = data if data[:64].lstrip()[:1] == b"<" else _unbrotli(data, most)
        elif coding not in ("", "identity", "none") and data[:64].lstrip()[:1] != b"<":
            raise BadInput("unknown_coding", f"its content coding {coding[:40]!r} is not known")
    return data


def _join_chunks(data: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while match := _CHUNK.match(data, at):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(data[match.end() : match.end() + size])
        at = match.end() + size + 2
    return b"".join(pieces) if pieces else data


def _inflate(data: bytes, window: int, most: int) -> bytes:
    inflate = zlib.decompressobj(window)
    try:
        plain = inflate.decompress(data, most + 1)
    except zlib.error as error:
        raise BadInput("damaged", f"its compressed content is damaged ({error})") from None
    if len(plain) > most:
        raise BadInput("unpacks_too_far", f"its content unpacks to more than {most:,} bytes")
    if not inflate.eof:
        raise BadInput("truncated", "its compressed content does not end")
    return plain


def _unbrotli(data: bytes, most: int) -> bytes:
    from fastwarc.stream_io import BrotliReader

    try:
        plain = BrotliReader(io.BytesIO(data)).read(most + 1)
    except OSError as error:
        raise BadInput("damaged", f"its compressed content is damaged ({error})") from None
    if len(plain) > most:
        raise BadInput("unpacks_too_far", f"its content unpacks to more than {most:,} bytes")
    return bytes(plain)
