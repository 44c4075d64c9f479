"""Web archives (WARC, ISO 28500:2017) record by record: pages as fetched, or Common Crawl's extracted text (WET)."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

from pipelines.corpus.config import WarcSource, WetSource
from pipelines.corpus.documents import BadInput, Document, Item, Outcome, PassedOver, Problem, clean_unicode
from pipelines.corpus.read.records import Cut, Records
from pipelines.corpus.read.web import decode_page, page_document
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import open_text
from pipelines.corpus.unpacking import find_member

_KINDS = {"warcinfo", "response", "resource", "request", "metadata", "revisit", "conversion", "continuation"}
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


def read_archive(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """The documents of an archive, records that are none passed over; what is broken costs no more than itself."""
    assert isinstance(source, WarcSource | WetSource)
    with open_text(item.location, source) as stream:
        records = Records(stream, source.max_record_bytes)
        while True:
            try:
                for cut in records:
                    yield _of_cut(cut, item, source)
                break
            except BadInput as error:
                if not find_member(stream, b"WARC/"):
                    raise
                records.restart()
                what = f"{error.what}, after record {records.number:,}; read on at the next of its gzip members"
                yield Problem(item.path, what, error.reason)
    if records.number == 0:
        raise BadInput("no_records", "holds no WARC record")


def _of_cut(cut: Cut, item: Item, source: WarcSource | WetSource) -> Outcome:
    from fastwarc.warc import ArchiveIterator

    path = f"{item.path}:{cut.number}"
    if cut.broken:
        return Problem(path, cut.broken, cut.reason, cut.head)
    wanted = ("conversion",) if isinstance(source, WetSource) else ("response", "resource")
    if cut.kind not in wanted:
        return PassedOver(f"{cut.kind}_record" if cut.kind in _KINDS else "unknown_record")
    if cut.data is None:
        return Problem(path, f"its record is over {source.max_record_bytes:,} bytes", "too_large", cut.head)
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(cut.data), parse_http=False, stream_detect=False)), None)
        if record is not None:
            return _of_record(record, path, cut.kind, item, source)
        what = "its header cannot be read"
    except (OSError, ValueError) as error:
        what = f"its header cannot be read: {error}"
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a panic in fastwarc's Rust arrives as
            raise
        return Problem(path, "the library that reads it crashed", "crashes_parser", cut.head)
    return Problem(path, what, "broken_record", cut.head)


def _of_record(record: Any, path: str, kind: str, item: Item, source: WarcSource | WetSource) -> Outcome:
    head = b""
    try:
        if kind == "response":
            if not record.headers.get("Content-Type", "").lower().startswith("application/http"):
                return PassedOver("no_http_response")
            record.parse_http(quirks_mode=True)
            if record.http_headers is None:
                raise BadInput("broken_record", "its HTTP header cannot be read")
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
