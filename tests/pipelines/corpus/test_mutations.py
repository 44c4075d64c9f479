"""Valid files with random damage: each reader gives documents and named problems, and never anything else."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

PIECES = [b"WARC/1.0\r\n", b"\x1f\x8b\x08", b"\r\n\r\n", b'"', b"\n", b"\0" * 50, b"Content-Length: 99999999\r\n"]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The data with one to twenty places overwritten, removed, repeated or inserted."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at = chance.randrange(len(found) + 1)
        what = chance.randrange(6)
        if what == 0:
            found[at : at + 1] = chance.randbytes(1)
        elif what == 1:
            del found[at : at + chance.randrange(1, 200)]
        elif what == 2:
            found[at:at] = chance.randbytes(chance.randrange(1, 40))
        elif what == 3:
            del found[at:]
        elif what == 4:
            begin = chance.randrange(len(found) + 1)
            found[at:at] = found[begin : begin + chance.randrange(400)]
        else:
            found[at:at] = chance.choice(PIECES)
    return bytes(found)


def record(kind: str, body: bytes, media: str) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def seeds(kind: str) -> list[bytes]:
    lines = b"".join(json.dumps({"text": f"line {number} é", "n": number}).encode() + b"\n" for number in range(200))
    rows = b"id,text\n" + b"".join(b'%d,"some, ""text"" %d\nmore"\n' % (number, number) for number in range(200))
    if kind == "jsonl":
        packers: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstandard.compress]
        return [lines, *(pack(lines) for pack in packers)]
    if kind == "csv":
        return [rows, gzip.compress(rows)]
    if kind == "text":
        return [rows, gzip.compress(rows)]
    if kind == "parquet":
        stream = io.BytesIO()
        columns = {
            "text": [f"row {n} " * 5 for n in range(300)],
            "m": [{"a": n, "b": ["x"] * (n % 3)} for n in range(300)],
        }
        pq.write_table(pa.table(columns), stream, row_group_size=100)
        return [stream.getvalue()]
    if kind == "wet":
        records = [
            record("conversion", f"Text {number} of a page.\n".encode() * 5, "text/plain") for number in range(9)
        ]
    else:
        # Plain text: pages go to a parser in another process, whose own tests these are not.
        page = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n%s\r\n%s"
        bodies = [page % (b"", b"words " * 20), page % (b"Content-Encoding: gzip\r\n", gzip.compress(b"words " * 20))]
        records = [record("response", bodies[number % 2], "application/http; msgtype=response") for number in range(9)]
    return [b"".join(records), b"".join(gzip.compress(each) for each in records)]


KINDS = ["jsonl", "csv", "text", "parquet", "warc", "wet"]


@pytest.mark.parametrize(
    ("kind", "count"),
    [*((kind, 60) for kind in KINDS), *(pytest.param(kind, 6000, marks=pytest.mark.slow) for kind in KINDS)],
)
def test_damaged_files(tmp_path: Path, read_source: Callable[..., Any], kind: str, count: int) -> None:
    chance = random.Random(f"{kind} {count}")
    whole = seeds(kind)
    problems = 0
    for number in range(count):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(damaged(whole[number % len(whole)], chance))
        found = read_source(kind=kind, path=str(path))
        for document in found.documents:
            document.text.encode("utf-8")
            json.dumps(dict(document.metadata)).encode("utf-8")
        problems += len(found.problems)
    assert problems > count / 4
