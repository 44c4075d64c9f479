"""Web archives: synthetic ones for the rules, real ones (good, clipped, truncated, wrong) for the world."""

from __future__ import annotations

import gzip
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.read.records import Records


def record(kind: str, body: bytes, media: str = "application/http; msgtype=response", **headers: str) -> bytes:
    """One WARC record."""
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>",
        "WARC-Date: 2024-05-18T01:58:10Z",
        "WARC-Target-URI: https://example.org/page",
        f"Content-Type: {media}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n\r\n"


def http(body: bytes, media: str = "text/html; charset=utf-8", status: str = "200 OK") -> bytes:
    """One HTTP answer."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\n\r\n".encode() + body


PAGE = "<title>A page</title><p>Some words that are the main content of it, naïve ones.</p>".encode()


def test_which_records_are_documents(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    records = [
        record("warcinfo", b"software: x", "application/warc-fields"),
        record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        record("response", http(PAGE)),
        record("response", http(PAGE.decode().encode("latin-1"), "text/html; charset=latin1")),
        record("response", http(b"not found", status="404 Not Found")),
        record("response", http(b"\x89PNG", "image/png")),
        record("response", http(b"plain words", "text/plain")),
        record("resource", PAGE, "text/html"),
        record("response", b"dns", "text/dns"),
        record("response", http(b"<html><body></body></html>")),
        record("metadata", b"fetchTimeMs: 1", "application/warc-fields"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    (tmp_path / "b.warc.gz").write_bytes(b"".join(gzip.compress(each) for each in records))
    found = read_source(kind="warc", path=str(tmp_path / "a.warc"), licence="MIT")
    text = "Some words that are the main content of it, naïve ones.\n"
    assert found.texts == [text, text, "plain words", text]
    assert found.problems == []
    assert Counter(found.passed_over) == {
        "warcinfo_record": 1,
        "request_record": 1,
        "http_status": 1,
        "other_media_type": 1,
        "no_http_response": 1,
        "page_without_text": 1,
        "metadata_record": 1,
    }
    assert found.documents[0].path == "a.warc:3"
    assert found.documents[0].metadata == {
        "kind": "warc",
        "url": "https://example.org/page",
        "date": "2024-05-18T01:58:10Z",
        "record_id": "urn:uuid:00000000-0000-0000-0000-000000000001",
        "title": "A page",
    }
    assert read_source(kind="warc", path=str(tmp_path / "b.warc.gz")).texts == found.texts


def test_extracted_text_of_common_crawl(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    language = {"WARC_Identified_Content_Language": "spa,eng"}
    (tmp_path / "a.warc.wet").write_bytes(
        record("conversion", "Año\n".encode(), "text/plain", **language)
        + record("conversion", b"\xff", "text/plain")
        + record("conversion", b" \n", "text/plain")
    )
    found = read_source(kind="wet", path=str(tmp_path))
    assert found.texts == ["Año\n"]
    assert found.documents[0].metadata["identified_language"] == "spa,eng"
    assert found.reasons == [("a.warc.wet:2", "not_utf8")]
    assert found.passed_over == ["page_without_text"]


def test_a_bad_record_is_one_problem(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "a.warc").write_bytes(
        record("response", http(PAGE))
        + record("response", http(b"x" * 9000))
        + record("response", http(bytes(range(128, 256)) * 5))
        + record("response", b"no HTTP at all")
        + record("response", http(PAGE), "application/http-of-another-kind")
        + record("response", http(PAGE))
    )
    found = read_source(kind="warc", path=str(tmp_path), max_record_bytes=8000)
    assert len(found.texts) == 2
    assert found.reasons[:2] == [("a.warc:2", "too_large"), ("a.warc:3", "not_text")]
    assert ("a.warc:5", "broken_record") in found.reasons
    assert len(found.problems) + len(found.passed_over) == 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda good: good[:-30], "truncated"),
        (lambda good: good + b"WARC/1.0\r\nno header", "truncated"),
        (lambda good: good + b"\xde\xad" * 40_000, "broken_record"),
        (lambda good: good + good.replace(b"Content-Length: ", b"Content-Length: 9"), "truncated"),
        (lambda good: good + good.replace(b"Content-Length: ", b"Content-Length: -"), "broken_record"),
        (lambda good: gzip.compress(good * 20)[:-12], "truncated"),
    ],
)
def test_what_is_before_damage_is_kept(
    tmp_path: Path, read_source: Callable[..., Any], damage: Callable[[bytes], bytes], reason: str
) -> None:
    good = record("response", http(PAGE))
    (tmp_path / "a.warc").write_bytes(damage(good * 2))
    found = read_source(kind="warc", path=str(tmp_path))
    assert reason in [each for _, each in found.reasons]
    assert len(found.problems) <= 2
    assert found.texts


def page(number: int) -> bytes:
    words = f"The words of page {number:03d}, which are its content, and a few more of them."
    return record("response", http(f"<title>Page</title><p>{words}</p>".encode()))


def pages_found(texts: list[str]) -> set[int]:
    return {int(number) for text in texts for number in re.findall(r"words of page (\d{3}),", text)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda each: each.replace(b"WARC/1.0", b"WRAC/1.0"),
        lambda each: each.replace(b"WARC-Type: response", b"WARC-Tpye: response"),
        lambda each: each.replace(b"Content-Length: ", b"Content-Length: 7"),
        lambda each: each.replace(b"Content-Length: ", b"Content-Length: 77777"),
        lambda each: each.replace(b"Content-Length: 1", b"Content-Length: "),
        lambda each: each.replace(b"Content-Length: 1", b"Content-Length: x"),
        lambda each: each[:60] + b"\r\n",
        lambda each: each[:-60] + b"\r\n",
        lambda each: b"\0" * 5_000 + b"\n",
        lambda each: b"noise" * 100_000 + b"\r\n\r\n",
        lambda each: b"WARC/1.0\r\n" + b"Name: value\r\n" * 9_000,
    ],
)
def test_a_broken_record_costs_no_other(
    tmp_path: Path, read_source: Callable[..., Any], spoil: Callable[[bytes], bytes]
) -> None:
    records = [page(number) for number in range(9)]
    for number in (2, 6):
        records[number] = spoil(records[number])
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    (tmp_path / "b.warc.gz").write_bytes(b"".join(gzip.compress(each) for each in records))
    for name in ("a.warc", "b.warc.gz"):
        found = read_source(kind="warc", path=str(tmp_path / name), max_record_bytes=50_000)
        assert pages_found(found.texts) == set(range(9)) - {2, 6}
        assert {reason for _, reason in found.reasons} <= {"broken_record", "too_large"}
        assert len(found.problems) == 2
        assert found.documents[-1].path == f"{name}:9"


@given(st.data(), st.integers(0, 11), st.binary(max_size=300), st.integers(0, 400))
def test_whatever_is_written_over_an_archive_only_what_is_touched_is_lost(
    data: st.DataObject, first: int, noise: bytes, removed: int
) -> None:
    """Records whose own bytes and the line ends in front of them are untouched are all found."""
    records = [page(number) for number in range(12)]
    archive = b"".join(records)
    starts = [sum(map(len, records[:number])) for number in range(13)]
    start = data.draw(st.integers(starts[first], starts[first + 1] - 1))
    stream = io.BufferedReader(io.BytesIO(archive[:start] + noise + archive[start + removed :]))
    found = [cut for cut in Records(stream, 2_000) if not cut.broken]
    whole = {number for number in range(12) if starts[number + 1] <= start or starts[number] - 4 >= start + removed}
    assert whole <= pages_found([cut.data.decode("latin-1") for cut in found if cut.data])


@pytest.mark.parametrize("where", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("spoil", ["noise", "cut"])
def test_damage_inside_a_gzip_member_costs_no_other(
    tmp_path: Path, read_source: Callable[..., Any], where: float, spoil: str
) -> None:
    members = [gzip.compress(page(number), mtime=0) for number in range(30)]
    for number in (0, 7, 8, 20):
        at = int(len(members[number]) * where)
        rest = b"" if spoil == "cut" else bytes(reversed(members[number][at : at + 40])) + members[number][at + 40 :]
        members[number] = members[number][:at] + rest
    members[0] = members[0] if members[0].startswith(b"\x1f\x8b\x08") else gzip.compress(page(0))[:50]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    found = read_source(kind="warc", path=str(tmp_path))
    assert pages_found(found.texts) >= set(range(30)) - {0, 7, 8, 20}
    assert 1 <= len(found.problems) <= 4
    assert {reason for _, reason in found.reasons} <= {"damaged", "truncated", "broken_record"}
    assert not any(text.count("\ufffd") for text in found.texts)


def test_a_bomb_among_members_ends_the_file(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    bomb = gzip.compress(record("resource", b"0" * 60_000_000, "text/html"))
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(page(1)) + bomb + gzip.compress(page(2)))
    found = read_source(kind="warc", path=str(tmp_path))
    assert pages_found(found.texts) == {1}
    assert [reason for _, reason in found.reasons] == ["too_large", "unpacks_too_far"]


@pytest.mark.parametrize("data", [b"", b"no archive", b"\0" * 100_000])
def test_files_that_are_no_archives(tmp_path: Path, read_source: Callable[..., Any], data: bytes) -> None:
    (tmp_path / "a.warc").write_bytes(data)
    assert [reason for _, reason in read_source(kind="warc", path=str(tmp_path)).reasons] in (
        ["no_records"],
        ["broken_record"],
    )


@pytest.mark.anchor
@pytest.mark.parametrize(
    ("name", "documents", "reasons"),
    [
        ("dolma-sample-0000.warc.gz", 22, []),
        ("dolma-sample-0001.warc.gz", 15, []),
        ("jwarc-cc.warc.gz", 1, []),
        ("cc-whirlwind/whirlwind.warc", 1, []),
        ("cc-whirlwind/whirlwind.warc.gz", 1, []),
        ("cc-whirlwind/whirlwind.warc.wet.gz", 1, []),
        ("cc-whirlwind/whirlwind.warc.wat.gz", 0, []),
        ("resiliparse-warcfile.warc", 16, []),
        ("resiliparse-warcfile.warc.gz", 16, []),
        ("resiliparse-clueweb-quirk.warc.gz", 29, []),  # header lines end in LF only
        ("resiliparse-clipped.warc.gz", 0, ["truncated"]),
        ("warcio-example.warc", 1, []),
        ("warcio-example-iana.org-chunked.warc", 1, []),
        ("warcio-example-bad-non-chunked.warc.gz", 1, []),
        ("warcio-example-wrong-chunks.warc.gz", 1, []),
        ("warcio-example-trunc.warc", 0, ["broken_record"]),  # a request follows the record that is cut off
        ("cc-whirlwind/LICENSE", 0, ["broken_record"]),
    ],
)
def test_real_archives(
    anchors: Path, read_source: Callable[..., Any], name: str, documents: int, reasons: list[str]
) -> None:
    kind = "wet" if ".wet" in name else "warc"
    found = read_source(kind=kind, path=str(anchors / "corpora" / "warc" / name))
    assert (len(found.documents), [reason for _, reason in found.reasons]) == (documents, reasons)
    for document in found.documents:
        assert document.metadata["url"].startswith("http")
        assert document.text.strip()
        assert document.text.count("\ufffd") <= len(document.text) // 10


@pytest.mark.anchor
def test_real_charsets(anchors: Path, read_source: Callable[..., Any]) -> None:
    found = read_source(kind="warc", path=str(anchors / "corpora" / "warc" / "resiliparse-*.warc.gz"))
    titles = [str(document.metadata.get("title")) for document in found.documents]
    assert sum("ヘッドポーター" in title for title in titles) > 20  # EUC-JP, said in the HTTP header
    assert any("中山英才网" in title for title in titles)
