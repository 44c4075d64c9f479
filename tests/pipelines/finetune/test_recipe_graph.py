"""What a recipe's finetune section means for the stages around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_document
from cluster.errors import UserError
from cluster.store import open_store
from pipelines.cli import run_command
from pipelines.graph import build_graph, select
from pipelines.recipe import validate_recipe
from pipelines.servable import describe, require_servable

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


SERVED = 'serving: {variants: [{name: b, model: "@finetune", weight: 1}]}\n'


def test_a_base_in_the_store_says_how_an_adapter_on_it_is_served(
    bases: dict[str, Path], publish_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(tmp_path / "store")
    recipe = tmp_path / "r.yaml"
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "b", "completion": "b"}\n')
    for name, told in (("gpt2", "vLLM puts no adapters beside GPT2LMHeadModel"), ("llama", "several on one base\n")):
        base = publish_model(store, bases[name], "Model", name)
        section = f"store: {store.url}\nfinetune: {{model: {base.id}, data: {tmp_path / 'rows.jsonl'}}}\n"
        recipe.write_text(section)
        assert run_command(["plan", str(recipe)]) == 0
        assert told in capsys.readouterr().out
        recipe.write_text(section + SERVED)
        if name == "gpt2":  # refused when the run begins, not when all is trained
            assert run_command(["run", str(recipe)]) == 2
            assert f"vLLM cannot serve variant b beside its base: {told}" in capsys.readouterr().err
            assert [item.key for item in store.files("") if not item.key.startswith("Model/gpt2")] == []
        else:
            require_servable(validate_recipe(parse_document(recipe.read_text(), "r.yaml")), store)


def test_a_base_on_the_hub_is_asked_for_its_kind(
    monkeypatch: pytest.MonkeyPatch, bases: dict[str, Path], tmp_path: Path
) -> None:
    import huggingface_hub

    asked = []

    def download(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        if repository == "a/closed":
            raise OSError("no network")
        return str(bases[repository.removeprefix("a/")] / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    store = open_store(tmp_path)

    def told(name: str) -> str:
        return describe(validate_recipe(parse_document(f"finetune: {{model: 'hf://{name}'}}\n", "r.yaml")), store)

    assert "must be merged before vLLM serves it: vLLM puts no adapters beside GPT2" in told("a/gpt2@main")
    assert told("a/llama").endswith("vLLM serves it beside its base, several on one base")
    assert told("a/closed").endswith(", if it puts adapters beside that kind of model, which is not known before the "
        "model is here")  # fmt: skip
    assert asked[0] == ("a/gpt2", "config.json", "main") and asked[-1] == ("a/closed", "config.json", None)


BESIDE, MERGED, NEVER = "vLLM serves it beside its base", "must be merged before vLLM serves it", "cannot be served by"


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("method: full", "a whole model: vLLM serves it as one"),
        ("method: lora, merge: true", "a whole model: vLLM serves it as one"),
        ("method: lora", BESIDE),
        ("method: lora, rslora: true", BESIDE),
        ("method: lora, dora: true", MERGED),
        ("method: ia3", MERGED),
        ("method: adapter", NEVER),
        ("method: prompt", NEVER),
        ("method: prefix", NEVER),
        ("method: p-tuning", NEVER),
        ("method: ia3, merge: true", "a whole model: vLLM serves it as one"),
    ],
)
def test_a_plan_says_of_each_method_how_it_is_served(section: str, told: str, tmp_path: Path) -> None:
    recipe = validate_recipe(parse_document(f"finetune: {{{section}}}\n", "r.yaml"))
    assert told in describe(recipe, open_store(tmp_path))
