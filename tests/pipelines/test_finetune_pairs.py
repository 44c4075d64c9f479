from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.config import identity_fields, parse_document, validate
from cluster.errors import UserError
from cluster.store import Store
from pipelines.finetune.config import FinetuneConfig, resolve
from pipelines.finetune.pairs import (
    Pair,
    choose,
    docstring_pairs,
    first_paragraph,
    parse_pairs,
    read_pairs,
    split,
    to_jsonl,
)
from pipelines.finetune.stage import _training_texts

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
    assert [pair.completion for pair in pairs] == [
        "Return the area of a rectangle in square metres.",
        "A circle around the origin.",
        "Its question cannot show the whole signature.",
    ]
    assert "area" in pairs[0].prompt
    assert "Circle" in pairs[1].prompt
    assert "argument_number" not in pairs[2].prompt
    assert pairs == list(docstring_pairs(DOCUMENT))


def test_questions_vary(corpus_rows: list[dict[str, str]]) -> None:
    pairs = [pair for row in corpus_rows for pair in docstring_pairs(row["text"])]
    assert len(pairs) > 300
    openings = {" ".join(pair.prompt.split()[:2]) for pair in pairs}
    assert len(openings) >= 5
    assert all(pair.completion.strip() == pair.completion and "\n" not in pair.completion for pair in pairs)


def test_docstrings_are_known_by_their_kind_whatever_their_source_is_called(
    store: Store, publish: Callable[..., Artifact]
) -> None:
    kinds = {"docstring": "our-docs", "readme": "python-docs"}
    rows = [
        {"id": kind, "text": f"text of a {kind}", "source": source, "metadata": json.dumps({"kind": kind})}
        for kind, source in kinds.items()
    ]
    corpus = publish(store, [rows[0], *rows], validation_every=10)
    assert list(_training_texts(corpus, store)) == ["text of a docstring"]


def test_text_without_a_module_gives_nothing() -> None:
    assert list(docstring_pairs("## def f(x)\n\nReturn what was given.")) == []
    assert first_paragraph("\n\n  one\n  two\n\nthree") == "one two"


PAIRS = st.lists(st.builds(Pair, st.text("abcd", min_size=1, max_size=3), st.text("xyz", min_size=1)), max_size=60)


@given(PAIRS, st.floats(0.01, 0.49))
def test_no_prompt_is_on_both_sides(pairs: list[Pair], fraction: float) -> None:
    pairs = choose(pairs)
    if len({pair.prompt for pair in pairs}) < 2:
        with pytest.raises(UserError, match="too few"):
            split(pairs, fraction)
        return
    train, validation = split(pairs, fraction)
    assert train and validation
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in validation}
    assert sorted(map(str, train + validation)) == sorted(map(str, pairs))


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_documents_changes_nothing(pairs: list[Pair], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(pairs) == choose(shuffled)
    assert choose(pairs, 3) == choose(shuffled)[:3]


def test_the_held_out_share_is_about_the_one_asked_for() -> None:
    pairs = [Pair(f"question {n}", "answer") for n in range(4000)]
    assert 0.08 < len(split(pairs, 0.1)[1]) / 4000 < 0.12


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pairs = [Pair("Größe?", "42\u2028cm"), Pair("b", "c")]
    path.write_text(to_jsonl(pairs) + "\n", encoding="utf-8")
    assert read_pairs(str(path)) == pairs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "pairs:2: not valid JSON"),
        ("[1]", "pairs:2: not a JSON object"),
        ('{"prompt": "x"}', "pairs:2: completion is missing"),
        ('{"prompt": " ", "completion": "y"}', "pairs:2: prompt is missing, empty"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_pairs('{"prompt": "a", "completion": "b"}\n' + line, "pairs")


def test_identity_is_the_files_content_and_not_its_place(tmp_path: Path) -> None:
    def identity(path: Path) -> dict[str, object]:
        config = FinetuneConfig.model_validate({"data": {"kind": "jsonl", "path": str(path)}})
        return identity_fields(config) | resolve(config)

    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("same" if name != "c" else "other")
    assert identity(tmp_path / "a") == identity(tmp_path / "b")
    assert identity(tmp_path / "a") != identity(tmp_path / "c")
    with pytest.raises(UserError, match="cannot be read"):
        identity(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target_modules: [q_proj, lm_head]", "lm_head cannot be adapted: choose from q_proj"),
        ("rank: 32", "less than or equal to 16"),
        ("data: {kind: jsonl}", "recipe.yaml:1: data.path: field required"),
        ("data: {kind: csv}", "unknown kind 'csv'; known: docs-pairs, jsonl"),
    ],
)
def test_mistakes_in_the_recipe(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(FinetuneConfig, parse_document(text, "recipe.yaml"))


def test_a_module_that_documents_nothing_gives_no_pairs() -> None:
    assert (
        list(docstring_pairs("# json.scanner\n\nJSON token scanner, with no function of its own to explain.\n")) == []
    )
