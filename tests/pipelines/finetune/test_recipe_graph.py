"""What a recipe's finetune section means for the stages around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import parse_document
from cluster.errors import UserError
from pipelines.graph import build_graph, select
from pipelines.recipe import validate_recipe

ELSEWHERE = "finetune: {model: %s, data: %s}\nevals: {}\n"
BOTH = (
    'serving: {variants: [{name: a, model: "@finetune-base", weight: 1}, {name: b, model: "@finetune", weight: 1}]}\n'
)


def test_a_model_from_elsewhere_needs_no_pretraining_and_is_evaluated_as_it_was(tmp_path: Path) -> None:
    text = ELSEWHERE % (tmp_path, "chats.jsonl") + BOTH
    nodes = build_graph(validate_recipe(parse_document(text, "recipe.yaml")))
    assert {node.name: dict(node.inputs) for node in nodes} == {
        "finetune-base": {},
        "finetune": {"model": "finetune-base"},
        "evals-finetune": {"model": "finetune", "base": "finetune-base"},
        "evals-finetune-base": {"model": "finetune-base"},
    }
    assert [node.name for node in select(nodes, None, "finetune")[0]] == ["finetune-base", "finetune"]


def test_what_fine_tuning_reads_follows_from_its_data_and_method() -> None:
    def kinds(text: str) -> dict[str, tuple[str, set[str]]]:
        nodes = build_graph(validate_recipe(parse_document(text, "recipe.yaml")))
        return {node.name: (node.stage.kind, set(node.inputs)) for node in nodes}

    assert kinds("finetune: {}\n")["finetune"] == ("Adapter", {"model", "corpus"})
    whole = kinds("finetune: {method: full, data: chats.jsonl}\nevals: {}\n")
    assert whole["finetune"] == ("Model", {"model"})
    assert whole["evals-finetune"][1] == {"model", "corpus"}  # full weights have no base
    assert "evals-pretrain" in whole
    with pytest.raises(UserError, match="@finetune-base names no stage that makes a model"):
        kinds("finetune: {}\n" + BOTH)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{method: prompt}", "vLLM cannot serve variant b beside its base: PROMPT_TUNING adapters are learned vectors"),
        ("{dora: true}", "vLLM does not scale by DoRA's magnitudes. Merge it into its base"),
        ("{chat_template: '{{ messages }}'}", "it has a chat template of its own"),
    ],
)
def test_serving_what_vllm_cannot_is_refused_before_anything_is_trained(section: str, message: str) -> None:
    served = 'serving: {variants: [{name: b, model: "@finetune", weight: 1}]}\n'
    with pytest.raises(UserError, match=message):
        validate_recipe(parse_document(f"finetune: {section}\n{served}", "recipe.yaml"))
    validate_recipe(parse_document(f"finetune: {section}\n", "recipe.yaml"))
    merged = "finetune: {dora: true, merge: true}\n" + served
    assert validate_recipe(parse_document(merged, "recipe.yaml")).finetune.makes_model
