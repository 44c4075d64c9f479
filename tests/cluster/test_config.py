"""Every mistake in a recipe is named with its line, and identity holds exactly what changes a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from cluster.config import StrictModel, apply_overrides, execution, identity_fields, load_document, parse_document
from cluster.config import validate as validate_document
from cluster.errors import UserError


class Text(StrictModel):
    kind: Literal["text"]
    path: str


class Web(StrictModel):
    kind: Literal["web"]
    address: str = "x"


class Training(StrictModel):
    learning_rate: float = Field(1e-3, gt=0)
    workers: int = execution(2)
    layers: list[int] = Field(default_factory=list)


class Example(StrictModel):
    name: str = "example"
    training: Training = Field(default_factory=Training)
    sources: list[Annotated[Text | Web, Field(discriminator="kind")]] = Field(default_factory=list)


def refusal(text: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        validate_document(Example, apply_overrides(parse_document(text, "r.yaml"), overrides))
    return str(caught.value)


def test_unknown_key_is_named_with_its_line_and_the_nearest_key() -> None:
    message = refusal("name: a\ntraining:\n  # a comment\n  learning_rat: 1\n")
    assert message.startswith("r.yaml:4: training.learning_rat: unknown key; did you mean learning_rate?")


def test_unknown_key_inside_a_list_of_alternatives() -> None:
    message = refusal("sources:\n  - {kind: text, path: a}\n  - kind: web\n    adress: b\n")
    assert message.startswith("r.yaml:4: sources.1.adress: unknown key; did you mean address?")


def test_wrong_type_shows_what_was_given() -> None:
    assert "r.yaml:2: training.learning_rate: " in refusal("training:\n  learning_rate: fast\n")
    assert "'fast'" in refusal("training:\n  learning_rate: fast\n")


def test_missing_key_names_its_parent_line() -> None:
    assert refusal("sources:\n  - kind: text\n").startswith("r.yaml:2: sources.0.path: field required")


def test_several_mistakes_are_said_at_once() -> None:
    message = refusal("nam: a\ntraining:\n  workrs: 3\n")
    assert "r.yaml:1: nam:" in message
    assert "r.yaml:3: training.workrs:" in message


def test_repeated_key_is_refused() -> None:
    with pytest.raises(UserError, match=r"r.yaml:2: name: given twice \(first on line 1\)"):
        parse_document("name: a\nname: b\n", "r.yaml")


def test_broken_yaml_names_the_line() -> None:
    with pytest.raises(UserError, match=r"r.yaml:3: not valid YAML"):
        parse_document("a: 1\nb: [1, 2\nc: 3\n", "r.yaml")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be a mapping"):
        parse_document(text, "r.yaml")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_document(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_document(tmp_path)


def test_numbers_and_words_are_read_as_a_person_means_them() -> None:
    data = parse_document("a: 1e6\nb: 3.5e-4\nc: on\nd: true\ne: 12\nf: 2026-01-01\n", "r").data
    assert data == {"a": 1e6, "b": 3.5e-4, "c": "on", "d": True, "e": 12, "f": "2026-01-01"}


def test_overrides_reach_nested_keys_and_list_items_and_are_named_in_errors() -> None:
    document = apply_overrides(
        parse_document("sources:\n  - {kind: text, path: a}\n", "r"),
        ["sources.0.path=b", "training.learning_rate=1e-2", "training.layers=[1, 2]"],
    )
    example = validate_document(Example, document)
    assert example.sources[0] == Text(kind="text", path="b")
    assert example.training.learning_rate == 1e-2
    assert example.training.layers == [1, 2]
    assert refusal("name: a", ("training.learning_rate=-1",)).startswith("--set training.learning_rate=-1: ")


@pytest.mark.parametrize("override", ["training", "=1", "sources.7.path=x", "name.inner=1"])
def test_bad_override_is_refused_with_its_text(override: str) -> None:
    with pytest.raises(UserError, match=r"--set " + override.replace(".", r"\.")):
        validate_document(Example, apply_overrides(parse_document("name: a\nsources: []\n", "r"), [override]))


def test_a_list_given_by_an_override_is_blamed_on_the_override() -> None:
    text = "sources:\n  - {kind: text, path: a}\ntraining: {layers: [1, 2]}\n"
    assert refusal(text, ("training.layers=[x]",)).startswith("--set training.layers=[x]: training.layers.0: ")
    assert refusal(text, ("sources=[{kind: text}]",)).startswith("--set sources=[{kind: text}]: sources.0.path: ")


def test_unknown_kind_and_a_value_where_a_section_belongs() -> None:
    assert "sources.0: unknown kind 'txt'; did you mean text?" in refusal("sources:\n  - {kind: txt}\n")
    assert "sources.0: the key kind is missing, which says what it is" in refusal("sources:\n  - {path: a}\n")
    assert refusal("training: 3\n").startswith("r.yaml:1: training: must be a section of keys (got 3)")


def test_overrides_leave_the_original_document_alone() -> None:
    document = parse_document("training: {workers: 2}\n", "r")
    apply_overrides(document, ["training.workers=9"])
    assert document.data == {"training": {"workers": 2}}


def test_execution_fields_stay_out_of_the_identity() -> None:
    two, nine = Example(training=Training(workers=2)), Example(training=Training(workers=9))
    assert identity_fields(two) == identity_fields(nine)
    assert "workers" not in identity_fields(two)["training"]
    assert identity_fields(two) != identity_fields(Example(training=Training(learning_rate=2e-3)))


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.integers() | st.text(max_size=5), max_size=5))
def test_any_mapping_survives_reading(mapping: dict[str, object]) -> None:
    import yaml

    assert (
        parse_document(yaml.safe_dump(mapping, default_style='"') if mapping else "{}", "r").data.keys()
        == mapping.keys()
    )
