"""Web pages: bytes to characters as browsers do it, and the main content as text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.corpus.aside import ASIDE
from pipelines.corpus.config import HtmlSource
from pipelines.corpus.documents import BadInput, Document, Item, Outcome, PassedOver
from pipelines.corpus.encodings import find_encoding
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import open_text

LARGEST_DAMAGE = 0.01
"""Browsers show a page with a few wrong bytes; more than this share of its characters and it is not text."""

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META_CHARSET = re.compile(rb"""<meta[^>]{0,512}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_HEAD_BYTES = 4096
_TITLE_CHARACTERS = 1000


def read_html(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """One saved page; its title is in the metadata."""
    assert isinstance(source, HtmlSource)
    with open_text(item.location, source) as stream:
        data = stream.read(source.max_record_bytes + 1)
    if len(data) > source.max_record_bytes:
        raise BadInput("too_large", f"is over {source.max_record_bytes:,} bytes")
    yield page_document(data, None, source.main_content, source.max_cpu_seconds, item.path, item, item.metadata)


def page_document(
    data: bytes,
    charset: str | None,
    main_content: bool,
    cpu_seconds: float,
    path: str,
    item: Item,
    metadata: Mapping[str, Any],
) -> Document | PassedOver:
    """The document of a page's bytes; ``charset`` is what its HTTP header says.

    Raises:
        BadInput: it is no text, or cannot be taken apart.
    """
    html = decode_page(data, charset)
    text, title = ASIDE.call("pipelines.corpus.read.web:extract", cpu_seconds, html, main_content)
    if not text:
        return PassedOver("page_without_text")
    about = dict(metadata) | ({"title": title} if title else {})
    return Document(path, text, item.licence, about)


def extract(html: str, main_content: bool) -> tuple[str, str]:
    """(text, title) of a page; all of its text where no main content is found. Runs in the helper process."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    title = " ".join((tree.title or "").split())[:_TITLE_CHARACTERS]
    text = ""
    for main in (True, False) if main_content else (False,):
        text = extract_plain_text(
            tree, main_content=main, preserve_formatting=True, alt_texts=False, comments=not main
        ).strip()
        if text:
            break
    return (text + "\n" if text else "", title)


def decode_page(data: bytes, charset: str | None) -> str:
    """A page's characters: by its byte order mark, its HTTP header, its ``meta`` element, or else by what fits.

    The order is that of the HTML standard (13.2.3.2); wrong bytes become U+FFFD as in browsers, within a bound.

    Raises:
        BadInput: too much of it is in no encoding, so it is hardly text.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    for named in (charset, _declared(data)):
        encoding = encoding or (known_encoding(named) if named else None)
    if encoding is None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            from resiliparse.parse.encoding import detect_encoding

            encoding = known_encoding(detect_encoding(data) or "") or "cp1252"
    text = data.decode(encoding, "replace").removeprefix("\ufeff").replace("\0", "")
    if text.count("\ufffd") > LARGEST_DAMAGE * len(text):
        raise BadInput("not_text", f"is not text in {encoding}, which it is said to be or looks like")
    return text


def known_encoding(name: str) -> str | None:
    """Python's name for an encoding of the web, with the meaning that browsers give it, or None."""
    found = find_encoding(name.strip().strip("\"'"))
    # WHATWG Encoding, section 4.2: labels that mean the wider code page they are used for.
    return (
        {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}.get(found, found)
        if found
        else None
    )


def _declared(data: bytes) -> str | None:
    match = _META_CHARSET.search(data[:_HEAD_BYTES])
    if not match:
        return None
    name = match[1].decode("ascii", "replace")
    return "utf-8" if name.lower().startswith("utf-16") else name  # it could not have been read as that
