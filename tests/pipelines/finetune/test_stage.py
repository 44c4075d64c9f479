"""The whole stage, from a recipe's section to a published artifact; a process of its own stands for Ray's workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.artifact import Artifact, local_copy, verify_artifact
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.stage import Stage, execute, identify
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.finetune.config import FinetuneConfig
from pipelines.tune.reported import reported
from tests.pipelines.one_process import run_section


def rows(path: Path, count: int = 24) -> Path:
    made = [{"prompt": f"words {number}?", "completion": f"words {number % 3} words"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.mark.usefixtures("without_ray")
def test_an_adapter_on_a_model_from_elsewhere(bases: dict[str, Path], store: LocalStore, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl")
    path.write_text(path.read_text() + '{"prompt": "words?", "completion": ""}\n')
    data = f"{{kind: jsonl, path: {path}, bad_rows: skip}}"
    section = f"{{model: {bases['gpt2']}, data: {data}, steps: 12, batch_sequences: 8, workers: 1, packing: true}}"
    made = run_section(section, store)
    assert list(made) == ["finetune-base", "finetune"]
    adapter = made["finetune"]
    assert adapter.kind == "Adapter" and adapter.inputs.keys() == {"model"}
    assert verify_artifact(store, adapter) == []
    assert adapter.metrics["validation.loss"] < adapter.metrics["validation.loss_before"]
    assert adapter.counts["examples"] == 24 and adapter.counts["bad_rows"] == 1
    settings = json.loads(store.read(adapter.key("adapter_config.json")))
    assert settings["base_model_name_or_path"] == made["finetune-base"].id
    names = {entry.path for entry in adapter.files}
    assert {"examples/train.jsonl", "examples/validation.jsonl", "metrics.jsonl", "report.html"} <= names
    page = store.read(adapter.key("report.html")).decode()
    assert "Held-out questions" in page and "LoRA of rank 8" in page
    assert "Rows that were left out" in page and "a.jsonl:25: completion is missing, empty or not text" in page
    record = json.dumps([each.model_dump(mode="json", exclude={"provenance"}) for each in made.values()])
    assert str(tmp_path) not in record and str(bases["gpt2"]) not in record


@pytest.mark.usefixtures("without_ray")
def test_the_demos_way_from_curated_docstrings(
    bases: dict[str, Path],
    corpus_rows: list[dict[str, str]],
    publish: Callable[..., Artifact],
    store: LocalStore,
    tmp_path: Path,
) -> None:
    from pipelines.finetune import stage_of
    from pipelines.models.existing import STAGE as BASE
    from pipelines.models.existing import ExistingModelConfig
    from pipelines.models.export import export_model
    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape

    shape = Shape(hidden=32, layers=1, heads=1, kv_heads=1, intermediate=48)
    model = build_llama(shape, vocab_size=300, max_positions=256, bos_id=0, eos_id=1, pad_id=2)
    export_model(model, bases["llama"], tmp_path / "model", torch.randint(3, 300, (1, 8)))

    def make(stage: Stage, config: Any, inputs: dict[str, Artifact]) -> Artifact:
        parents = {role: each.fingerprint for role, each in inputs.items()}
        with Progress().track(stage.name) as tracker:
            return execute(stage, identify(stage, config, parents), config, inputs, store, tracker).artifact

    base = make(BASE, ExistingModelConfig(source=str(tmp_path / "model")), {})
    corpus = publish(store, corpus_rows[:40])
    config = FinetuneConfig(method="lora", steps=3, workers=1, batch_sequences=4, examples_shown=1)
    adapter = make(stage_of(config), config, {"model": base, "corpus": corpus})
    assert adapter.kind == "Adapter" and adapter.licences == corpus.licences
    # Longer ones are left out and counted; nothing is refused that the user did not write.
    assert 0 < adapter.counts["examples_too_long"] < adapter.counts["examples"]
    settings = json.loads(store.read(adapter.key("adapter_config.json")))
    matrices = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (settings["peft_type"], settings["r"], settings["target_modules"]) == ("LORA", 8, matrices)
    question = json.loads(store.read(adapter.key("examples/train.jsonl")).splitlines()[0])
    assert [message["role"] for message in question["messages"]] == ["user", "assistant"]


@pytest.mark.usefixtures("without_ray")
def test_all_weights_with_what_they_forget(bases: dict[str, Path], store: LocalStore, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    data = rows(tmp_path / "a.jsonl")
    (tmp_path / "old.jsonl").write_text('{"text": "words words words"}\n')
    section = (
        f"{{model: {bases['llama']}, data: {data}, method: full, learning_rate: 1e-2, steps: 8, batch_sequences: 8, "
        f"workers: 1, l2_sp: 0.01, subset: 20, forgetting: {tmp_path / 'old.jsonl'}}}"
    )
    made = run_section(section, store)
    model = made["finetune"]
    assert model.kind == "Model" and model.counts["examples"] == 20
    assert model.metrics["forgetting.loss"] != model.metrics["forgetting.loss_before"]
    known = FinetuneConfig.model_validate({"data": str(data), "forgetting": str(data)})
    assert set(model.metrics) == set(reported(known))  # what a search may be for
    assert "What it could do before" in store.read(model.key("report.html")).decode()
    tuned = AutoModelForCausalLM.from_pretrained(local_copy(store, model))
    base = AutoModelForCausalLM.from_pretrained(bases["llama"])
    moved = [not torch.equal(a, b) for a, b in zip(tuned.parameters(), base.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.usefixtures("without_ray")
def test_what_ends_an_answer_ends_it_where_it_is_served(
    bases: dict[str, Path], store: LocalStore, tmp_path: Path
) -> None:
    """A template of one's own ends answers with a token that the base does not stop at."""
    data = tmp_path / "a.jsonl"
    data.write_text("".join(f'{{"prompt": "words {number}?", "completion": "words"}}\n' for number in range(24)))
    template = "{% for m in messages %}{{ m.content }}<|system|>{% endfor %}"
    section = (
        f"{{model: {bases['llama']}, data: {data}, chat_template: '{template}', steps: 40, batch_sequences: 8, "
        "learning_rate: 1e-2, workers: 1, "
    )
    whole = run_section(section + "method: full}", store)["finetune"]
    assert json.loads(store.read(whole.key("generation_config.json")))["eos_token_id"] == [1, 6, 3]
    assert "unstopped" not in whole.details
    assert {each["after"] for each in whole.details["examples"]} == {"words"}
    beside = run_section(section + "method: lora}", store)["finetune"]
    assert beside.details["unstopped"] == "<|system|>"
    assert "does not stop there" in store.read(beside.key("report.html")).decode()
    assert run_command(["merge", beside.id, str(tmp_path / "merged"), "--store", store.url]) == 0
    assert json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"] == [1, 6, 3]


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("settings", "row", "message"),
    [
        ("", {"prompt": "x", "completion": ""}, "a.jsonl:25: completion is missing, empty or not text"),
        ("", {"prompt": "x", "completion": "words " * 90}, r"a.jsonl:25: .* are more than the 64 that fit"),
        (", target_modules: [query]", {"prompt": "x", "completion": "y"}, "query matches nothing in the model"),
        (
            ', chat_template: "{% for m in messages %}{{ m.role }}{% endfor %}"',
            {"prompt": "x", "completion": "y"},
            r"a.jsonl:\d+: the chat template loses the answer",
        ),
        (", sequence_length: 65", {"prompt": "x", "completion": "y"}, "65 tokens do not fit the model's context of 64"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_published(
    settings: str, row: dict[str, Any], message: str, bases: dict[str, Path], store: LocalStore, tmp_path: Path
) -> None:
    data = rows(tmp_path / "a.jsonl")
    data.write_text(data.read_text() + json.dumps(row) + "\n")
    section = f"{{model: {bases['llama']}, data: {data}, steps: 2, batch_sequences: 8, workers: 1{settings}}}"
    with pytest.raises(UserError, match=message):
        run_section(section, store)
    assert not list(store.folders("Adapter")) or not any(
        item.key.endswith("artifact.json") for item in store.files("Adapter/")
    )
