from __future__ import annotations

import encodings.aliases
import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.aside import Aside
from pipelines.corpus.documents import BadInput
from pipelines.corpus.read.archives import decode_body
from pipelines.corpus.read.web import decode_page, known_encoding

PAGE = """<!doctype html><html><head><title> On
 words </title></head><body><nav><a href=/>Home</a> <a href=/a>About us</a></nav>
<main><h1>Words</h1><p>The first paragraph says a few things about words, and has a link to <a href=x>more</a>.</p>
<p>The second one, with &eacute;ntities &amp; so on, is as long as a paragraph has to be to count as one.</p>
<pre>code
    indented</pre></main><footer>Copyright, all rights reserved</footer><script>var x = 1;</script></body></html>"""


@pytest.fixture(scope="module")
def aside() -> Iterator[Aside]:
    helper = Aside()
    yield helper
    helper.close()


def test_the_main_content_of_a_page(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "a.html").write_text(PAGE, "utf-8")
    (tmp_path / "empty.htm").write_text("<html><body><img src=x></body></html>")
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(PAGE.encode()))
    found = read_source(kind="html", path=str(tmp_path), licence="MIT")
    assert sorted(each.path for each in found.documents) == ["a.html", "b.html.gz"]
    assert found.passed_over == ["page_without_text"]
    text = found.texts[0]
    assert found.texts == [text, text]
    assert text.startswith("Words\n\nThe first paragraph")
    assert "éntities & so on" in text
    assert "code\n    indented" in text
    assert not any(word in text for word in ("About us", "rights", "var x"))
    assert found.documents[0].metadata == {"kind": "html", "title": "On words"}
    assert "About us" in read_source(kind="html", path=str(tmp_path), main_content=False).texts[0]


@pytest.mark.parametrize(
    ("data", "charset", "expected"),
    [
        ("naïve".encode(), None, "naïve"),
        ("naïve".encode("latin-1"), "ISO-8859-1", "naïve"),
        ("“quotes”".encode("cp1252"), "iso-8859-1", "“quotes”"),  # as browsers read that label
        ('<meta charset="euc-jp">日本語'.encode("euc-jp"), None, '<meta charset="euc-jp">日本語'),
        ("<meta charset=latin-1>日本語".encode("euc-jp"), "euc-jp", "<meta charset=latin-1>日本語"),  # HTTP first
        ("\ufeffnaïve".encode(), "latin-1", "naïve"),  # a byte order mark before both
        ("\ufeffnaïve".encode("utf-16-le"), None, "naïve"),
        ("<meta charset=utf-16>naïve".encode(), None, "<meta charset=utf-16>naïve"),
        ("汉字".encode("gb18030"), "gb2312", "汉字"),
        ("naïve".encode(), "no-such-charset", "naïve"),
        ("naïve".encode(), "hex", "naïve"),  # a codec of Python's that is no encoding
    ],
)
def test_characters_are_those_that_a_browser_shows(data: bytes, charset: str | None, expected: str) -> None:
    assert decode_page(data, charset) == expected


def test_a_few_wrong_bytes_are_replaced_and_many_are_not_text() -> None:
    assert decode_page(b"text " * 100 + b"\xff", "utf-8").count("\ufffd") == 1
    with pytest.raises(BadInput, match="not text in utf-8"):
        decode_page(bytes(range(128, 256)) * 10, "utf-8")


PYTHONS = sorted({*encodings.aliases.aliases.values(), "undefined", "idna", "punycode", "unicode_escape"})


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=12), st.sampled_from(PYTHONS)))
def test_any_bytes_are_characters_or_bad_input(data: bytes, charset: str | None) -> None:
    try:
        decode_page(data, charset).encode("utf-8")
    except BadInput as error:
        assert error.reason == "not_text"


@given(st.text(max_size=20))
def test_known_encodings_can_decode(name: str) -> None:
    found = known_encoding(name)
    assert found is None or isinstance(b"".decode(found), str)


def packed(data: bytes) -> bytes:
    """Gzip without the time of day: parameters become test names, which all processes of a run must agree on."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ({"Content-Encoding": "gzip"}, packed(b"<p>hello")),
        ({"Content-Encoding": "GZIP"}, b"<p>hello"),  # decoded by the crawler already
        ({"Content-Encoding": "deflate"}, zlib.compress(b"<p>hello")),
        ({"Content-Encoding": "deflate"}, zlib.compress(b"<p>hello")[2:-4]),  # without its header, as some servers
        ({"Transfer-Encoding": "chunked"}, b"5\r\n<p>he\r\n3;x=y\r\nllo\r\n0\r\n\r\n"),
        ({"Transfer-Encoding": "chunked"}, b"<p>hello"),
        (
            {"Transfer-Encoding": "chunked", "Content-Encoding": "deflate, gzip"},
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed(zlib.compress(b"<p>hello"))), packed(zlib.compress(b"<p>hello"))),
        ),
        ({"Content-Encoding": "identity"}, b"<p>hello"),
    ],
)
def test_bodies_without_their_codings(headers: dict[str, str], data: bytes) -> None:
    assert decode_body(data, headers, 1000) == b"<p>hello"


@pytest.mark.parametrize(
    ("coding", "data", "reason"),
    [
        ("gzip", packed(bytes(5000)), "unpacks_too_far"),
        ("gzip", packed(b"<p>hello")[:-4], "truncated"),
        ("gzip", packed(b"<p>hello")[:-8] + bytes(8), "damaged"),
        ("br", b"\x00\xff\xff\xff\xff", "damaged"),
        ("compress", b"\x1f\x9d", "unknown_coding"),
    ],
)
def test_bodies_that_cannot_be_decoded(coding: str, data: bytes, reason: str) -> None:
    with pytest.raises(BadInput) as raised:
        decode_body(data, {"Content-Encoding": coding}, 1000)
    assert raised.value.reason == reason


def test_brotli() -> None:
    import io

    from fastwarc.stream_io import BrotliWriter

    packed = io.BytesIO()
    with BrotliWriter(packed) as writer:
        writer.write(b"<p>hello" * 50)
    assert decode_body(packed.getvalue(), {"Content-Encoding": "br"}, 1000) == b"<p>hello" * 50
    with pytest.raises(BadInput, match="more than 100 bytes"):
        decode_body(packed.getvalue(), {"Content-Encoding": "br"}, 100)


def test_a_page_that_stalls_the_parser_is_given_up(aside: Aside) -> None:
    """Pages nested deeply take the library quadratic time: this one, of 3 MB, would take it hours."""
    began = time.process_time()
    with pytest.raises(BadInput) as raised:
        aside.call("pipelines.corpus.read.web:extract", 0.3, "<div>" * 600_000, True)
    assert raised.value.reason == "takes_too_long"
    assert aside.call("pipelines.corpus.read.web:extract", 5.0, PAGE, True)[1] == "On words"
    assert time.process_time() - began < 5


def test_a_crash_costs_the_helper_only(aside: Aside) -> None:
    with pytest.raises(BadInput, match=r"crashed \(SIGABRT\)"):
        aside.call("os:abort", 1.0)
    with pytest.raises(BadInput, match="ZeroDivisionError"):
        aside.call("operator:truediv", 1.0, 1, 0)
    with pytest.raises(BadInput, match="more memory"):
        aside.call("operator:mul", 1.0, b"x", 8 << 30)
    assert aside.call("operator:add", 1.0, 1, 2) == 3
