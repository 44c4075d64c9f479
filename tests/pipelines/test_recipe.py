"""Recipes: strict, complete, and every shipped or generated one valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cluster.config import parse_document
from cluster.errors import UserError
from pipelines.commands.new import starter
from pipelines.graph import build_graph, identities, select
from pipelines.objective import parse_target
from pipelines.recipe import RECIPES, Recipe, dump_recipe, load_recipe, validate_recipe
from serving.config import EngineConfig, LimitsConfig, ShadowConfig
from serving.rollout.config import GuardrailConfig, RolloutConfig

SHIPPED = sorted(RECIPES.glob("*.yaml"))


def recipe_of(text: str) -> Recipe:
    return validate_recipe(parse_document(text, "r.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_are_valid_and_planned(path: Path) -> None:
    nodes = build_graph(load_recipe(path))
    assert identities(nodes).keys() == {node.name for node in nodes}


def test_there_is_a_demo() -> None:
    assert "demo.yaml" in [path.name for path in SHIPPED]
    demo = load_recipe("pipelines/recipes/demo.yaml")
    assert [node.name for node in build_graph(demo)] == [
        "corpus",
        "curate",
        "tokenizer",
        "tokens",
        "pretrain",
        "finetune",
        "evals-pretrain",
        "evals-finetune",
    ]


def test_shipped_recipe_is_found_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("demo.yaml") == load_recipe("pipelines/recipes/demo.yaml") == load_recipe(RECIPES / "demo.yaml")
    with pytest.raises(UserError, match="no such file"):
        load_recipe("elsewhere/demo.yaml")


def test_resolved_recipe_is_a_recipe() -> None:
    demo = load_recipe("demo.yaml")
    again = recipe_of(yaml.safe_dump(dump_recipe(demo)))
    assert dump_recipe(again) == dump_recipe(demo)


def test_starter_is_valid_as_written_and_with_every_key_uncommented() -> None:
    text = starter("mine")
    assert recipe_of(text).name == "mine"
    assert build_graph(recipe_of(text))
    everything = text.replace("#: ", "")
    uncommented = recipe_of(everything)
    written = recipe_of(text)
    assert dump_recipe(uncommented) == dump_recipe(written)


def test_starter_explains_every_key_of_every_section() -> None:
    text = starter("mine")
    for section, info in Recipe.model_fields.items():
        for key in getattr(info.annotation, "model_fields", {}):
            assert f"{key}:" in text, f"{section}.{key}"
    for model in (RolloutConfig, EngineConfig, LimitsConfig, ShadowConfig, GuardrailConfig):
        for key, inner in model.model_fields.items():
            assert re.search(rf"^ +#[:?] +(# )?{key}:", text, re.MULTILINE), f"{model.__name__}.{key}"
            assert inner.description in text


def test_starters_sections_that_are_off_are_valid_once_uncommented() -> None:
    text = starter("mine").replace('"@finetune", weight: 10', '"@finetune", weight: 0').replace("#? ", "")
    serving = recipe_of(text).serving
    assert serving.rollout == RolloutConfig(candidate="tuned", baseline="base")
    assert serving.shadow == ShadowConfig(variant="tuned")


def test_empty_section_means_its_defaults_and_absent_ones_take_no_part() -> None:
    assert [node.name for node in build_graph(recipe_of("tokenizer:\n"))] == ["corpus", "curate", "tokenizer"]
    assert [node.name for node in build_graph(recipe_of("name: x\n"))] == []
    names = [node.name for node in build_graph(recipe_of("evals: {benchmarks: sample}\n"))]
    assert names[-2:] == ["pretrain", "evals-pretrain"]


def test_serving_brings_the_models_it_names() -> None:
    recipe = recipe_of('serving: {variants: [{name: a, model: "@finetune", weight: 1}]}\n')
    assert [node.name for node in build_graph(recipe)][-2:] == ["pretrain", "finetune"]
    wrong = recipe_of('serving: {variants: [{name: a, model: "@pretran", weight: 1}]}\n')
    with pytest.raises(UserError, match="did you mean @pretrain"):
        build_graph(wrong)


def test_identity_ignores_where_and_how_fast() -> None:
    def fingerprints(*overrides: str) -> list[str]:
        recipe = load_recipe("demo.yaml", overrides)
        return [each.fingerprint for each in identities(build_graph(recipe)).values()]

    base = fingerprints()
    assert fingerprints("store=s3://elsewhere/x", "pretrain.workers=4", "evals.workers=1", "serving.port=1") == base
    changed = fingerprints("pretrain.learning_rate=0.0042")
    assert [a == b for a, b in zip(base, changed, strict=True)] == [True] * 4 + [False] * 4


def test_until_and_only() -> None:
    nodes = build_graph(load_recipe("demo.yaml"))
    assert [node.name for node in select(nodes, "tokens", None)[0]] == ["corpus", "curate", "tokenizer", "tokens"]
    assert select(nodes, "tokens", None)[1] is False
    assert [node.name for node in select(nodes, None, "evals")[0]] == ["evals-pretrain", "evals-finetune"]
    assert select(nodes, None, "serving") == ([], True)
    with pytest.raises(UserError, match="did you mean pretrain"):
        select(nodes, "pretran", None)


@pytest.mark.parametrize(
    ("condition", "value", "met"), [(">= 0.3", 0.3, True), ("< 1", 1.0, False), ("<=6e1", 59, True)]
)
def test_targets(condition: str, value: float, met: bool) -> None:
    assert parse_target("m", condition).check({"m": value}).met is met
    assert parse_target("m", condition).check({}).met is False


def test_unreadable_target_is_named_with_its_line() -> None:
    with pytest.raises(UserError, match=r"r.yaml:2: objective.targets: target 'a.b' reads 'high'"):
        recipe_of("objective:\n  targets: {a.b: high}\n")
