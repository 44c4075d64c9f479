from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, verify_artifact
from cluster.errors import UserError
from cluster.store import Store
from pipelines.corpus import part
from pipelines.corpus.documents import Item
from pipelines.corpus.part import plan_parts

RunCorpus = Callable[..., tuple[Artifact, list[dict[str, Any]]]]


def test_text_and_jsonl_become_documents(tmp_path: Path, run_corpus: RunCorpus, store: Store) -> None:
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_bytes("\ufeffHello\r\n".encode())
    (tmp_path / "notes" / "deep" / "b.md").write_text("# Title\n")
    (tmp_path / "notes" / "c.csv").write_text("not read")
    (tmp_path / "notes" / ".hidden.txt").write_text("not read")
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"body": "first", "terms": "MIT", "page": 3}) + "\n\n" + json.dumps({"body": "second \ud800"}) + "\n"
    )
    made, rows = run_corpus(
        {"kind": "text", "path": str(tmp_path / "notes"), "licence": "CC0-1.0"},
        {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), "text_field": "body", "licence_field": "terms"},
    )
    seen = {(row["source"], row["path"], row["text"], row["licence"]) for row in rows}
    assert seen == {
        ("text", "a.txt", "Hello\r\n", "CC0-1.0"),
        ("text", "deep/b.md", "# Title\n", "CC0-1.0"),
        ("jsonl", "rows.jsonl:1", "first", "MIT"),
        ("jsonl", "rows.jsonl:3", "second \ufffd", "unknown"),
    }
    assert json.loads(next(row for row in rows if row["text"] == "first")["metadata"]) == {
        "kind": "jsonl",
        "line": 1,
        "page": 3,
        "terms": "MIT",
    }
    assert made.licences == {"CC0-1.0": 2, "MIT": 1, "unknown": 1}
    assert made.counts["documents"] == 4
    assert verify_artifact(store, made) == []
    assert b"<html" in store.read(made.key("report.html"))


def test_samples_on_the_page_are_redacted(tmp_path: Path, run_corpus: RunCorpus, store: Store) -> None:
    (tmp_path / "a.txt").write_text("Ask jane.doe@example.org.")
    made, rows = run_corpus({"kind": "text", "path": str(tmp_path / "a.txt")})
    page = store.read(made.key("report.html")).decode()
    assert "Ask &lt;EMAIL&gt;." in page
    assert "example.org" not in page
    assert rows[0]["text"] == "Ask jane.doe@example.org."


def test_ids_do_not_depend_on_the_place(tmp_path: Path, run_corpus: RunCorpus) -> None:
    ids = []
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.txt").write_text(f"text of {place}")
        ids.append(run_corpus({"kind": "text", "path": str(tmp_path / place)})[1][0]["id"])
    assert ids[0] == ids[1]


@pytest.mark.parametrize("cap", [1, 400, 1234, 3210, 5000, 100_000])
def test_a_cap_keeps_the_longest_fitting_beginning(
    tmp_path: Path, run_corpus: RunCorpus, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    monkeypatch.setattr(part, "SMALLEST_PART_BYTES", 200)  # so that the cap falls into one part of many
    for index in range(40):
        (tmp_path / f"{index}.txt").write_text("x" * (290 if index % 3 else 1))
    _, everything = run_corpus({"kind": "text", "path": str(tmp_path)})
    sizes = list(accumulate(len(row["text"]) for row in everything))
    fitting = sum(size <= cap for size in sizes)
    if fitting == 0:
        with pytest.raises(UserError, match="the corpus is empty"):
            run_corpus({"kind": "text", "path": str(tmp_path), "max_bytes": cap})
        return
    made, some = run_corpus({"kind": "text", "path": str(tmp_path), "max_bytes": cap})
    assert some == everything[:fitting]
    assert made.counts["bytes"] == sizes[fitting - 1]


def test_python_docs_has_every_kind_under_a_small_cap(run_corpus: RunCorpus) -> None:
    made, rows = run_corpus({"kind": "python-docs", "max_bytes": 1_000_000})
    assert 900_000 < made.counts["bytes"] <= 1_000_000
    assert set(made.details["documents_by_kind"]) == {"docstring", "readme", "licence", "topic"}
    assert made.licences["PSF-2.0"] > 10
    docstring = next(row for row in rows if json.loads(row["metadata"])["kind"] == "docstring")
    about = json.loads(docstring["metadata"])
    assert set(about) == {"kind", "package", "version", "module"}
    assert docstring["text"].startswith(f"# {about['module']}\n")
    assert docstring["path"] == f"{about['package']}/{about['module']}"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"fine \xff\xfe", r"a\.txt: is not UTF-8 text \(byte 5\)"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": broken}\n', r"a\.jsonl:2: is not valid JSON"),
        (
            "a.jsonl",
            b'{"text": "ok"}\n\n{"txt": "no"}\n',
            r"a\.jsonl:3: has no text .* fields: txt",
        ),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: has no text"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: has no text"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl:1: is not UTF-8"),
        ("a.jsonl", b"[" * 100_000 + b"\n", r"a\.jsonl:1: is not valid JSON"),
    ],
)
def test_bad_input_is_refused_with_its_place(
    tmp_path: Path, run_corpus: RunCorpus, store: Store, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    kind = "text" if name.endswith(".txt") else "jsonl"
    with pytest.raises(UserError, match=message):
        run_corpus({"kind": kind, "path": str(tmp_path / name), "bad_input": "refuse"})
    assert all("/resume/" in file.key for file in store.files("Corpus"))


def test_bad_input_is_skipped_and_counted_where_asked(tmp_path: Path, run_corpus: RunCorpus) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\nnot json\n{"txt": 1}\n')
    made, rows = run_corpus({"kind": "jsonl", "path": str(tmp_path), "bad_input": "skip"}, max_bad_fraction=0.7)
    assert [row["text"] for row in rows] == ["ok"]
    assert made.counts == {"documents": 1, "bytes": 2, "quarantined.no_text_field": 1, "quarantined.not_json": 1}


def test_an_empty_corpus_is_an_error(tmp_path: Path, run_corpus: RunCorpus) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="the corpus is empty"):
        run_corpus({"kind": "jsonl", "path": str(tmp_path)})


def test_parts_depend_on_items_only() -> None:
    items = [Item("text", str(index), "", 100_000, "") for index in range(100)]
    parts = plan_parts(items, None, 32 << 20, first_number=7)
    assert [item for part in parts for item in part.items] == items
    assert [part.number for part in parts] == list(range(7, 7 + len(parts)))
    assert {sum(item.estimated_bytes for item in part.items) for part in parts[:-1]} == {700_000}
