from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.artifact import Artifact
from cluster.config import identity_fields, parse_document, validate
from cluster.errors import UserError
from cluster.store import Store
from pipelines.finetune.config import FinetuneConfig, resolve
from pipelines.finetune.docs_pairs import docstring_pairs, first_paragraph, training_texts

DOCUMENT = """# pack.shapes

Shapes and their areas. ## def not_a_heading(x) in running text.

## def area(width, height=1.0)

Return the area of a rectangle
in square metres.

The second paragraph is not part of the answer.

## class Circle(radius)

A circle around the origin.

## def short(x)

Too short

## def long_signature(ARGUMENTS)

Its question cannot show the whole signature.

## def undocumented()
""".replace("ARGUMENTS", ", ".join(f"argument_number_{n}" for n in range(30)))


def test_summaries_of_functions_and_classes_become_answers() -> None:
    pairs = list(docstring_pairs(DOCUMENT))
    assert [pair.messages[1].content for pair in pairs] == [
        "Return the area of a rectangle in square metres.",
        "A circle around the origin.",
        "Its question cannot show the whole signature.",
    ]
    assert "area" in pairs[0].opening
    assert "Circle" in pairs[1].opening
    assert "argument_number" not in pairs[2].opening
    assert pairs == list(docstring_pairs(DOCUMENT))


def test_questions_vary(corpus_rows: list[dict[str, str]]) -> None:
    pairs = [pair for row in corpus_rows for pair in docstring_pairs(row["text"])]
    assert len(pairs) > 300
    openings = {" ".join(pair.opening.split()[:2]) for pair in pairs}
    assert len(openings) >= 5
    assert all(pair.messages[1].content.strip() == pair.messages[1].content for pair in pairs)
    assert all("\n" not in pair.messages[1].content for pair in pairs)


def test_docstrings_are_known_by_their_kind_whatever_their_source_is_called(
    store: Store, publish: Callable[..., Artifact]
) -> None:
    kinds = {"docstring": "our-docs", "readme": "python-docs"}
    rows = [
        {"id": kind, "text": f"text of a {kind}", "source": source, "metadata": json.dumps({"kind": kind})}
        for kind, source in kinds.items()
    ]
    corpus = publish(store, [rows[0], *rows], validation_every=10)
    assert list(training_texts(corpus, store)) == ["text of a docstring"]


def test_text_without_a_module_gives_nothing() -> None:
    assert list(docstring_pairs("## def f(x)\n\nReturn what was given.")) == []
    assert first_paragraph("\n\n  one\n  two\n\nthree") == "one two"


def test_identity_is_the_files_content_and_not_its_place(tmp_path: Path) -> None:
    def identity(path: Path) -> dict[str, object]:
        config = FinetuneConfig.model_validate({"data": {"kind": "jsonl", "path": str(path)}})
        return identity_fields(config) | resolve(config)

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text("same" if name != "c" else "other")
    places = {name: tmp_path / name / "x.jsonl" for name in ("a", "b", "c")}
    assert identity(places["a"]) == identity(places["b"])
    assert identity(places["a"]) != identity(places["c"])
    assert str(tmp_path) not in str(identity(places["a"]))
    with pytest.raises(UserError, match="no such file"):
        identity(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank: 1024", "less than or equal to 512"),
        ("data: {kind: jsonl}", "recipe.yaml:1: data.path: field required"),
        ("data: {kind: csv}", "unknown kind 'csv'; known: docs-pairs, jsonl"),
        ("data: x.csv", "'x.csv' does not say what kind of file it is"),
        ("{method: full, rank: 4}", "rank is for method lora, not for full: leave it out"),
        ("{method: prompt, packing: true, data: x.jsonl}", "prompt puts its learned vectors in front of a row"),
        ("{method: lora, l2_sp: 0.1}", "l2_sp is for method full, not for lora"),
        ("subset: 1.5", "subset: 1.5 is neither a share below 1 nor a whole number"),
        ("{method: prefix, recompute: full}", "recompute drops the cache"),
        ("optimizer: muon", "muon orthogonalises whole matrices"),
    ],
)
def test_mistakes_in_the_recipe(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(FinetuneConfig, parse_document(text, "recipe.yaml"))


def test_a_module_that_documents_nothing_gives_no_pairs() -> None:
    assert (
        list(docstring_pairs("# json.scanner\n\nJSON token scanner, with no function of its own to explain.\n")) == []
    )
