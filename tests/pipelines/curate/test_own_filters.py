from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from pipelines.curate.own_filters.config import FilterConfig
from pipelines.curate.own_filters.run import apply_filters, check_filters

ROW = {"id": "1", "source": "web", "path": "a.txt", "licence": "MIT", "language": "en", "metadata": '{"stars": 3}'}
MODULE = """
made = 0

def wants_stars(document, least=1):
    return document["metadata"]["stars"] >= least

def named(document):
    return "too_short" if len(document["text"]) < 5 else None

def odd(document):
    return 7

def broken(document):
    raise KeyError("colour")

def writes(document):
    document["text"] = "mine"

class Counting:
    def __init__(self, most):
        global made
        made += 1
        self.most = most

    def __call__(self, document):
        return len(document["text"]) <= self.most

something = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    return name


def filters(*settings: str | dict[str, Any]) -> list[FilterConfig]:
    return [FilterConfig.model_validate(each) for each in settings]


def apply(*settings: str | dict[str, Any], text: str = "some text") -> str | None:
    chosen = filters(*settings)
    check_filters(chosen)
    return apply_filters(ROW, text, chosen)


def test_a_module_beside_the_recipe_is_found(module: str) -> None:
    assert apply(f"{module}:wants_stars") is None
    assert apply({"function": f"{module}:wants_stars", "options": {"least": 4}}) == "filter.wants_stars"


def test_the_first_reason_counts(module: str) -> None:
    assert apply(f"{module}:wants_stars", f"{module}:named", text="tiny") == "filter.named.too_short"


def test_a_class_is_made_once(module: str) -> None:
    chosen = filters({"function": f"{module}:Counting", "options": {"most": 6}})
    assert [apply_filters(ROW, text, chosen) for text in ("short", "rather long")] == [None, "filter.Counting"]
    assert sys.modules[module].made == 1


def test_a_filter_that_fails_is_named_with_its_document(module: str) -> None:
    with pytest.raises(UserError, match=r"own_.*:broken, document 1 \(a.txt\): raised KeyError: 'colour'"):
        apply(f"{module}:broken")
    assert apply({"function": f"{module}:broken", "on_error": "drop"}) == "filter.broken.error"


def test_documents_cannot_be_changed(module: str) -> None:
    with pytest.raises(UserError, match="raised TypeError"):
        apply(f"{module}:writes")


def test_an_odd_answer_is_refused(module: str) -> None:
    with pytest.raises(UserError, match="returned 7"):
        apply(f"{module}:odd")


@pytest.mark.parametrize("name", ["absent:x", "json:absent", "{module}:something"])
def test_what_cannot_be_loaded_is_refused_before_any_work(module: str, name: str) -> None:
    with pytest.raises(UserError, match="cannot be"):
        check_filters(filters(name.format(module=module)))


def test_two_of_one_name_would_be_counted_as_one(module: str) -> None:
    with pytest.raises(UserError, match="two filters are called named"):
        check_filters(filters(f"{module}:named", f"{module}:named"))


def test_a_name_has_two_parts() -> None:
    with pytest.raises(ValueError, match="not of the form module:function"):
        filters("just_a_name")
