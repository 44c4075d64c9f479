"""Held-out sets of one's own: read strictly, asked of the model, scored, and comparable like any suite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from evals.benchmarks import resolve_identity
from evals.config import EvalsConfig
from evals.own_sets import measure_set, read_set
from evals.set_config import SetConfig


class Bytes:
    """A tokenizer: one token a byte."""

    def encode(self, text: str, **_options: Any) -> list[int]:
        return list(text.encode())

    def __len__(self) -> int:
        return 256


class FakeLM:
    """A model that answers from a table, and says two bits for every byte."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.unanswered: set[tuple[str, int]] = set()
        self.tokenizer = Bytes()

    def rolling_tokens(self, documents: list[list[int]], label: str = "") -> list[float | None]:
        return [-2 * math.log(2) * len(tokens) for tokens in documents]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(0.0 if self.answers[each.args[0]] == each.args[1].strip() else -5.0, False) for each in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        assert all(each.args[1]["until"] == ["\n"] for each in requests)
        return [self.answers.get(each.args[0], "") for each in requests]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_text(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"text": "été"}, {"text": "some text"}])
    found = measure_set(FakeLM(), "notes", SetConfig(path=path, kind="text"))  # type: ignore[arg-type]
    assert found.figures["bits_per_byte"]["score"] == pytest.approx(2)
    assert found.figures["perplexity"]["score"] == pytest.approx(4)
    assert [row["weight"] for row in found.rows] == [5, 9]


def test_a_text_may_hold_any_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"one\u2028two\x85three {number}"} for number in range(2)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), encoding="utf-8")
    assert [row["text"] for row in read_set(SetConfig(kind="text", path=str(path)))] == [row["text"] for row in rows]


def test_labels(tmp_path: Path) -> None:
    rows = [{"prompt": "p1", "label": "bug"}, {"prompt": "p2", "label": "bug"}, {"prompt": "p3", "label": "feature"}]
    lm = FakeLM({"p1": "bug", "p2": "feature", "p3": "feature"})
    found = measure_set(lm, "tickets", SetConfig(path=write(tmp_path / "l.jsonl", rows), kind="labels"))  # type: ignore[arg-type]
    assert found.figures["acc"]["score"] == pytest.approx(2 / 3)
    assert found.figures["precision"]["score"] == pytest.approx((1 + 0.5) / 2)
    assert [row["metrics"]["acc"] for row in found.rows] == [1.0, 0.0, 1.0]
    assert found.rows[1]["target"] == 0
    assert found.labels[1] == {
        "label": "feature",
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "documents": 1,
    }


def test_answers_and_references(tmp_path: Path) -> None:
    rows = [{"prompt": "q1", "answer": "Paris"}, {"prompt": "q2", "answer": "Rome"}]
    lm = FakeLM({"q1": " paris.", "q2": "Milan"})
    found = measure_set(lm, "capitals", SetConfig(path=write(tmp_path / "a.jsonl", rows), kind="answers"))  # type: ignore[arg-type]
    assert found.figures["exact_match"]["score"] == 0.5
    assert found.rows[0]["output"] == "paris."
    texts = [{"prompt": "q1", "references": "the cat sat on the mat"}, {"prompt": "q2", "references": ["a b", "Milan"]}]
    found = measure_set(lm, "texts", SetConfig(path=write(tmp_path / "r.jsonl", texts), kind="references"))  # type: ignore[arg-type]
    assert found.rows[1]["metrics"]["rouge1"] == 1.0
    assert found.note.startswith("BLEU nrefs:")


def test_what_an_endpoint_did_not_answer_is_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "answer": "Paris"} for n in range(3)]
    lm = FakeLM({"q0": "Paris", "q2": "Rome"})
    lm.unanswered = {("capitals", 1), ("other", 0)}
    config = SetConfig(path=write(tmp_path / "a.jsonl", rows), kind="answers")
    found = measure_set(lm, "capitals", config)  # type: ignore[arg-type]
    assert found.figures["exact_match"] == {
        "score": 0.5,
        "interval_95": pytest.approx([0.0945, 0.9055], abs=1e-3),
        "n": 2,
    }
    assert "1 documents without an answer" in found.note
    assert (found.asked, found.unanswered) == (3, 1)
    lm.unanswered = {("capitals", number) for number in range(3)}
    nothing = measure_set(lm, "capitals", config)  # type: ignore[arg-type]
    assert (nothing.figures, nothing.rows, nothing.unanswered) == ({}, [], 3)
    labelled = [{"prompt": f"q{n}", "label": ("Paris", "Rome")[n % 2]} for n in range(3)]
    config = SetConfig(path=write(tmp_path / "l.jsonl", labelled), kind="labels")
    lm.answers["q1"] = "Rome"
    nothing = measure_set(lm, "capitals", config)  # type: ignore[arg-type]
    assert (nothing.kind, nothing.figures, nothing.unanswered) == ("labels", {}, 3)


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_text_that_an_endpoint_did_not_answer_is_in_no_figure(
    missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["some", "text", "and more"]
    path = write(tmp_path / "t.jsonl", [{"text": text} for text in texts])
    lm = FakeLM()
    lm.rolling_tokens = lambda documents, label="": [  # type: ignore[method-assign]
        None if number < missing else -math.log(2) * number * len(tokens) for number, tokens in enumerate(documents)
    ]
    found = measure_set(lm, "notes", SetConfig(path=path, kind="text"))  # type: ignore[arg-type]
    assert (found.asked, found.unanswered, len(found.rows)) == (3, missing, 3 - missing)
    sizes = [len(text) for text in texts]
    if missing < 3:
        expected = sum(n * sizes[n] for n in range(missing, 3)) / sum(sizes[missing:])
        assert found.figures["bits_per_byte"]["score"] == pytest.approx(expected)
    else:
        assert found.figures == {}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("{", "text", r"s\.jsonl:1: is not JSON"),
        ('{"text": "a"}\n{"txt": "a"}', "text", r"s\.jsonl:2: lacks text"),
        ('{"prompt": "a"}', "labels", "lacks prompt or label"),
        ('{"prompt": "a", "label": "x"}', "labels", "has one label only"),
        ("\n\n", "text", "holds no documents"),
        ('{"prompt": "a", "references": 5}', "references", r"s\.jsonl:1: its references are no texts"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, kind: Any, words: str) -> None:
    (tmp_path / "s.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        read_set(SetConfig(path=str(tmp_path / "s.jsonl"), kind=kind))


def test_the_content_of_a_set_is_part_of_the_identity_and_its_place_is_not(tmp_path: Path) -> None:
    from cluster.config import identity_fields

    one, two = (write(tmp_path / name, [{"text": "same"}]) for name in ("a.jsonl", "b.jsonl"))

    def identity(path: str) -> dict[str, Any]:
        config = EvalsConfig(benchmarks="sample", sets={"notes": SetConfig(path=path, kind="text")})
        return identity_fields(config) | resolve_identity(config)

    assert identity(one) == identity(two)
    assert identity(write(tmp_path / "b.jsonl", [{"text": "other"}])) != identity(one)
    with pytest.raises(UserError, match="cannot be read"):
        identity(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"txt": "a"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:1: lacks text"):  # before anything is asked
        identity(str(tmp_path / "bad.jsonl"))


@pytest.mark.parametrize("name", ["mmlu", "hellaswag", "heldout", "Tickets", "a b"])
def test_names_of_sets(name: str) -> None:
    with pytest.raises(ValidationError, match="a set cannot be called"):
        EvalsConfig(suites=("hellaswag",), sets={name: SetConfig(path="x", kind="text")})
