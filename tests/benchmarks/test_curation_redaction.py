"""The redaction benchmark: its documents, and both sides on a few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.curation_redaction import DOCUMENT_CHARACTERS, read_documents, redaction


def test_documents_are_cut_at_lines_and_some_have_something_to_find(tmp_path: Path) -> None:
    text = "".join(f"line {number} of a text that goes on\n" for number in range(1000))
    (tmp_path / "a.txt").write_text(text)
    documents = read_documents(tmp_path, 8)
    assert len(documents) == 8
    assert "".join(documents[1:]) in text
    assert all(DOCUMENT_CHARACTERS <= len(each) < DOCUMENT_CHARACTERS + 60 for each in documents[1:])
    assert "user0@example.org" in documents[0]


def test_both_sides_decide_alike() -> None:
    pytest.importorskip("datatrove")
    texts = [f"Mail user{n}@example.org from 8.8.{n}.8, not 10.0.0.{n}; v1.{n}.3.4.5" for n in range(20)]
    results = {each["name"]: each for each in redaction(texts, rounds=1)}
    assert results["redaction"]["agreement"] == 1.0
    assert results["redaction"]["changed"] == 20
    assert results["redaction_strict"]["agreement"] == 0.0
    assert all(each["ratio"] > 0 and each["peak_mb"] > 1 for each in results.values())
