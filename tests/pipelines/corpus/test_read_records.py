"""JSON Lines, CSV and Parquet: fields become documents, and what is wrong is one record and not the file."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.config import CorpusConfig, JsonlSource
from pipelines.corpus.documents import Document
from pipelines.corpus.readers import read_item
from pipelines.corpus.sources import SOURCES

ROWS = [
    {"id": 7, "body": "first", "terms": "MIT", "lang": "en", "page": "3", "author": {"name": "A"}},
    {"id": "x", "body": "zweiter", "terms": None, "lang": None, "page": "4", "author": {"name": "B"}},
]
MAPPING = {"text_field": "body", "id_field": "id", "licence_field": "terms", "language_field": "lang"}


def check_mapping(documents: list[Document], page: Any) -> None:
    first, second = documents
    assert (first.text, first.licence, first.language) == ("first", "MIT", "en")
    assert (second.text, second.licence, second.language) == ("zweiter", "CC0-1.0", None)
    assert first.metadata["record_id"] == "7"
    assert first.metadata["page"] == page
    assert first.metadata["team"] == "sales"
    assert "body" not in first.metadata


def test_fields_of_json_lines(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    keys = {"kind": "jsonl", "path": str(tmp_path), "licence": "CC0-1.0", "metadata": {"team": "sales"}, **MAPPING}
    check_mapping(read_source(**keys).documents, "3")
    picked = read_source(**keys, metadata_fields=["author.name", "absent"]).documents[1].metadata
    assert picked == {"author.name": "B", "record_id": "x", "team": "sales", "kind": "jsonl", "line": 2}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_fields_of_csv(tmp_path: Path, read_source: Callable[..., Any], pack: Callable[[bytes], bytes]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ROWS[0].keys())
    writer.writeheader()
    writer.writerows(ROWS)
    (tmp_path / "a.csv.gz").write_bytes(pack(("\ufeff" + stream.getvalue()).encode()))
    keys = {"kind": "csv", "path": str(tmp_path), "licence": "CC0-1.0", "metadata": {"team": "sales"}, **MAPPING}
    check_mapping(read_source(**keys).documents, "3")


def test_fields_of_parquet(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    when = datetime.date(2024, 2, 29)
    rows = [row | {"id": str(row["id"]), "when": when} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    keys = {"kind": "parquet", "path": str(tmp_path), "licence": "CC0-1.0", "metadata": {"team": "sales"}, **MAPPING}
    found = read_source(**keys).documents
    check_mapping(found, "3")
    assert found[0].metadata["when"] == "2024-02-29"
    assert found[1].path == "a.parquet:2"
    nested = read_source(**keys | {"text_field": "author.name", "metadata_fields": []})
    assert nested.texts == ["A", "B"]


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=40),
    part=st.integers(1, 200),
)
def test_a_large_file_gives_the_same_in_ranges(tmp_path_factory: Any, texts: list[str], part: int) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    source = JsonlSource.model_validate({"path": str(path)})
    items = SOURCES[JsonlSource].list_items(source, part)
    assert len(items) == 1 or all(item.span for item in items)
    items.sort(key=lambda item: item.span or (0, 0))
    found = [each for item in items for each in read_item(item, source)]
    assert [each.text for each in found if isinstance(each, Document)] == texts
    assert len({each.path for each in found if isinstance(each, Document)}) == len(texts)


@pytest.mark.parametrize("part", [15, 16, 17, 18, 19, 34, 51])
def test_a_line_at_the_edge_of_a_range_is_read_once(tmp_path: Path, read_source: Callable[..., Any], part: int) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "aaaa"}\n' * 20)  # 17 bytes a line
    found = read_source(part, kind="jsonl", path=str(tmp_path)).documents
    assert sorted(each.metadata.get("byte", 17 * (each.metadata.get("line", 1) - 1)) for each in found) == [
        17 * number for number in range(20)
    ]


def test_row_groups_are_read_apart(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    table = pa.table({"text": [f"row {number} {'x' * 50}" for number in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100, compression="none", use_dictionary=False)
    config = CorpusConfig.model_validate({"sources": [{"kind": "parquet", "path": str(tmp_path)}]})
    items = SOURCES[type(config.sources[0])].list_items(config.sources[0], 10_000)
    assert sorted(item.span for item in items if item.span) == [(start, start + 2) for start in range(0, 10, 2)]
    found = read_source(10_000, kind="parquet", path=str(tmp_path)).documents
    assert sorted((each.metadata["row"], each.text) for each in found) == [
        (number + 1, text.as_py()) for number, text in enumerate(table.column("text"))
    ]


def test_one_bad_line_is_one_problem(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    lines = [
        b'{"text": "good"}',
        b'{"text": broken}',
        b'{"text": "\xff"}',
        b'{"other": 1}',
        b'{"text": 3}',
        b'{"text": null}',
        b'{"text": "' + b"x" * 5000 + b'"}',
        b"[" * 100_0,
        b'{"text": "NaN and more", "x": NaN, "big": 1e999}',
        b'{"text": "the end"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = read_source(kind="jsonl", path=str(tmp_path), max_record_bytes=4000)
    assert found.texts == ["good", "NaN and more", "the end"]
    assert found.reasons == [
        ("a.jsonl:2", "not_json"),
        ("a.jsonl:3", "not_utf8"),
        ("a.jsonl:4", "no_text_field"),
        ("a.jsonl:5", "text_of_wrong_type"),
        ("a.jsonl:6", "no_text_field"),
        ("a.jsonl:7", "too_large"),
        ("a.jsonl:8", "not_json"),
    ]
    assert found.problems[5].first_bytes == lines[6][:256]
    json.loads(json.dumps(found.documents[1].metadata, allow_nan=False))


def test_rows_of_csv_that_are_no_rows(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'text,n\n"two\nlines",1\nshort\n"bad"quote,2\n\xff,3\n"q ""uoted""",4\n' + b"y" * 3000 + b",5\nlast,6\n"
    )
    found = read_source(kind="csv", path=str(tmp_path), max_record_bytes=2000)
    assert found.texts == ["two\nlines", 'q "uoted"', "last"]
    assert [each.metadata["line"] for each in found.documents] == [2, 7, 9]
    assert found.reasons == [
        ("a.csv:4", "wrong_columns"),
        ("a.csv:5", "not_csv"),
        ("a.csv:6", "not_utf8"),
        ("a.csv:8", "too_large"),
    ]


def test_a_quote_left_open_does_not_eat_the_file(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    rows = "".join(f"row {number},1\n" for number in range(1000))
    (tmp_path / "a.csv").write_text('text,n\n"open,1\n' + rows)
    found = read_source(kind="csv", path=str(tmp_path), max_record_bytes=2000)
    assert [reason for _, reason in found.reasons] == ["not_csv"]
    assert found.texts[-1] == "row 999"
    assert len(found.texts) > 750


def test_other_delimiters_and_encodings(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    (tmp_path / "a.tsv").write_bytes("text\tn\nnaïve, really\t1\n".encode("cp1252"))
    assert read_source(kind="csv", path=str(tmp_path), encoding="cp1252").texts == ["naïve, really"]
    (tmp_path / "b.txt").write_bytes("größer".encode("utf-16"))
    assert read_source(kind="text", path=str(tmp_path / "b.txt"), encoding="utf-16").texts == ["größer"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.csv", b"title,n\na,1\n", "no_text_field"),
        ("a.csv", b"\xff\xfe,n\n", "not_utf8"),
        ("a.parquet", b"PAR1 but no more", "damaged"),
        ("a.parquet", b"", "damaged"),
    ],
)
def test_files_that_are_not_what_they_seem(
    tmp_path: Path, read_source: Callable[..., Any], name: str, data: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(data)
    found = read_source(kind=name.partition(".")[2], path=str(tmp_path))
    assert found.reasons == [(name, reason)]
    assert found.problems[0].first_bytes == data


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([["a"], ["b"]]), "text_of_wrong_type"),
        (pa.array([{"a": "x"}, {"a": "y"}]), "text_of_wrong_type"),
        (pa.array([b"a", b"b"]), "text_of_wrong_type"),
        (pa.array([1.5, 2.5]), "text_of_wrong_type"),
        (pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string())), "text_of_wrong_type"),
        (pa.nulls(2), "no_text_field"),
    ],
)
def test_columns_of_other_types(tmp_path: Path, read_source: Callable[..., Any], column: Any, reason: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    found = read_source(kind="parquet", path=str(tmp_path))
    assert found.reasons == [("a.parquet:1", reason), ("a.parquet:2", reason)]


def test_bad_rows_of_parquet(tmp_path: Path, read_source: Callable[..., Any]) -> None:
    wrong = pa.array([b"fine", b"\xff\xfe", b"x" * 5000, None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    found = read_source(kind="parquet", path=str(tmp_path), max_record_bytes=4000)
    assert found.texts == ["fine"]
    assert found.reasons == [
        ("a.parquet:2", "not_utf8"),
        ("a.parquet:3", "too_large"),
        ("a.parquet:4", "no_text_field"),
    ]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert [reason for _, reason in read_source(kind="parquet", path=str(tmp_path)).reasons] == [
        "text_of_wrong_type"
    ] * 2
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    assert read_source(kind="parquet", path=str(tmp_path)).reasons == [("a.parquet", "damaged")]
