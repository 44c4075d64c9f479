"""Sources that are no files: functions of the user's, and datasets of the Hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.sources import resolve

MODULE = """
def pages(count, prefix="page"):
    for number in range(count):
        yield {"text": f"{prefix} {number}", "id": number, "tags": ["a"]}

def texts(shard, shards):
    return [f"text {number}" for number in range(10) if number % shards == shard]

def mixed():
    yield "good"
    yield {"body": "no text"}
    yield 7
    yield {"text": None}
    raise RuntimeError("the system went away")

nothing = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current folder; its name."""
    name = f"my_source_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_documents_of_a_function(module: str, read_source: Callable[..., Any]) -> None:
    function = f"{module}:pages"
    found = read_source(
        kind="custom", function=function, arguments={"count": 2}, id_field="id", licence="MIT", language="en"
    )
    assert found.texts == ["page 0", "page 1"]
    assert found.documents[1].metadata == {"id": 1, "record_id": "1", "tags": ["a"], "kind": "custom"}
    assert found.documents[1].path == f"{function}/00000:2"


def test_a_function_in_shards(module: str, read_source: Callable[..., Any]) -> None:
    found = read_source(kind="custom", function=f"{module}:texts", shards=3)
    assert sorted(found.texts) == [f"text {number}" for number in range(10)]
    assert len({each.path for each in found.documents}) == 10


def test_what_a_function_does_wrong(module: str, read_source: Callable[..., Any]) -> None:
    found = read_source(kind="custom", function=f"{module}:mixed")
    assert found.texts == ["good"]
    assert [reason for _, reason in found.reasons] == [
        "no_text_field",
        "text_of_wrong_type",
        "no_text_field",
        "source_failed",
    ]
    assert "RuntimeError: the system went away" in found.problems[-1].what


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("{}:absent", "has nothing called absent"),
        ("{}:nothing", "is no function"),
        ("no.module:f", "cannot be imported"),
    ],
)
def test_functions_that_are_not_there(
    module: str, read_source: Callable[..., Any], function: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_source(kind="custom", function=function.format(module))


def test_a_functions_identity_is_what_the_recipe_says() -> None:
    def identity(**keys: Any) -> dict[str, Any]:
        source = {"kind": "custom", "function": "absent:pages", **keys}
        return resolve(CorpusConfig.model_validate({"sources": [source]}))

    assert identity() == identity()
    assert len({str(identity(**keys)) for keys in ({}, {"version": "2"}, {"arguments": {"a": 1}}, {"shards": 2})}) == 4


def test_the_hub_offline_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"hf://org/name: the Hugging Face Hub is switched off here") as raised:
        resolve(CorpusConfig.model_validate({"sources": [{"kind": "hf", "path": "hf://org/name"}]}))
    assert "kind: parquet" in raised.value.next_step


@pytest.mark.anchor
def test_a_dataset_in_the_hubs_layout(anchors: Path, read_source: Callable[..., Any]) -> None:
    place = anchors / "benchmarks" / "allenai" / "ai2_arc"
    found = read_source(
        kind="hf",
        path=str(place),
        subset="ARC-Easy",
        split="test",
        text_field="question",
        id_field="id",
        metadata_fields=["choices.text"],
        licence="CC-BY-SA-4.0",
    )
    assert len(found.documents) == 2376
    assert found.problems == []
    first = found.documents[0]
    assert first.path == "ARC-Easy/test/00000:1"
    assert set(first.metadata) == {"choices.text", "record_id", "kind", "subset", "row"}
    assert len(first.metadata["choices.text"]) == 4
    with pytest.raises(UserError, match="cannot be opened"):
        read_source(kind="hf", path=str(place), subset="ARC-Easy", split="absent")
    with pytest.raises(UserError, match="no such folder"):
        read_source(kind="hf", path=str(place / "absent"))


@pytest.mark.anchor
def test_the_identity_of_a_local_dataset_is_its_content(anchors: Path) -> None:
    place = anchors / "benchmarks" / "allenai" / "ai2_arc"
    (source,) = resolve(CorpusConfig.model_validate({"sources": [{"kind": "hf", "path": str(place)}]}))["sources"]
    assert len(source["content_sha256"]) == 64
    assert str(place) not in str(source)
