from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF file with one line of text on each page, written by hand (ISO 32000-1, 7.5)."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    objects.append(f"<< /Title ({title}) >>")
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        data
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer << /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
        ).encode()
    )


def locked(data: bytes) -> bytes:
    """The file with an encryption dictionary that no empty password fits (ISO 32000-1, 7.6.3)."""
    keys = f"<< /Filter /Standard /V 1 /R 2 /O <{'5a' * 32}> /U <{'a5' * 32}> /P -4 >>"
    return data.replace(b"trailer << ", f"trailer << /Encrypt {keys} /ID [<{'01' * 16}> <{'01' * 16}>] ".encode())


def test_text_of_all_pages(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    data = pdf("Hello from page one.", "", "And from page three.", title="Greetings")
    (tmp_path / "a.pdf").write_bytes(data)
    (tmp_path / "b.pdf.gz").write_bytes(gzip.compress(data))
    found = read_source(kind="pdf", path=str(tmp_path), licence="MIT")
    assert found.texts == ["Hello from page one.\n\nAnd from page three.\n"] * 2
    assert sorted(each.path for each in found.documents) == ["a.pdf", "b.pdf.gz"]
    assert found.documents[0].metadata == {"kind": "pdf", "pages": 3, "title": "Greetings"}


def test_long_files_are_cut(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(*(f"Page {number} " + "x" * 80 for number in range(30))))
    found = read_source(kind="pdf", path=str(tmp_path), max_document_bytes=1024)
    assert [each.path for each in found.documents] == [f"a.pdf#{number:05d}" for number in range(3)]
    assert sum(text.count("Page ") for text in found.texts) == 30


def test_a_file_without_text_is_no_problem(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "scan.pdf").write_bytes(pdf("", ""))
    found = read_source(kind="pdf", path=str(tmp_path))
    assert (found.documents, found.problems, found.passed_over) == ([], [], ["pdf_without_text"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"%PDF-1.4\nand nothing more", "damaged"),
        (b"<html>not a pdf", "damaged"),
        (pdf("x" * 3000), "too_large"),
        (gzip.compress(pdf("x" * 3000)), "too_large"),
        (gzip.compress(pdf("text"))[:-4], "truncated"),
        (locked(pdf("text")), "locked"),
        (gzip.compress(locked(pdf("text"))), "locked"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, read_source: Callable[..., Any], data: bytes, reason: str) -> None:
    (tmp_path / "a.pdf").write_bytes(data)
    (tmp_path / "good.pdf").write_bytes(pdf("Still read."))
    found = read_source(kind="pdf", path=str(tmp_path), max_record_bytes=2000)
    assert found.reasons == [("a.pdf", reason)]
    assert found.texts == ["Still read.\n"]
