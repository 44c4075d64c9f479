"""From what a person names to a folder with weights, in a local store and in one that is far away."""

import json

import pytest

from cluster.artifact import Artifact, Identity, InputEntry
from cluster.errors import UserError
from cluster.store import open_store
from serving.config import EngineConfig
from serving.control.state import ModelSource
from serving.engines import resolve
from serving.engines.plan import VariantSource


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def publish(store):
    """Write an artifact with one file, as a stage would."""

    def make(kind, name, file, content, **inputs):
        identity = Identity(kind, name, 1, {}, {role: each.fingerprint for role, each in inputs.items()})
        data = json.dumps(content).encode()
        store.write(f"{identity.id}/try/{file}", data)
        digest, size = store.sha256(f"{identity.id}/try/{file}")
        record = Artifact(
            kind=kind,
            name=name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            inputs={role: InputEntry(id=each.id, fingerprint=each.fingerprint) for role, each in inputs.items()},
            attempt="try",
            files=[{"path": file, "size_bytes": size, "sha256": digest}],
        ).sealed()
        store.write(f"{record.id}/artifact.json", record.encode())
        return record

    return make


@pytest.fixture
def folders(tmp_path):
    base, lora = tmp_path / "weights" / "base", tmp_path / "weights" / "lora"
    for folder in (base, lora):
        folder.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    settings = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(base)}
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    return base, lora


def test_an_adapters_artifact_brings_its_base_and_its_rank(store, publish):
    model = publish("Model", "pretrain", "config.json", {})
    adapter = publish("Adapter", "finetune", "adapter_config.json", {"peft_type": "LORA", "r": 24}, model=model)
    base, lora = ModelSource(artifact=model.id), ModelSource(artifact=adapter.id)
    expected = VariantSource(base, lora, 24)
    assert resolve.find_source(store, "@finetune", {"finetune": adapter}) == expected
    assert resolve.find_source(store, "@finetune") == expected  # the newest of that stage
    assert resolve.find_source(store, adapter.id) == expected
    assert resolve.find_source(store, model.id) == VariantSource(base)
    assert (resolve.model_folder(store, base) / "config.json").is_file()
    assert (resolve.adapter_folder(store, lora) / "adapter_config.json").is_file()


def test_folders_are_taken_as_they_are(store, folders):
    base, lora = folders
    assert resolve.find_source(store, str(base)) == VariantSource(ModelSource(folder=str(base)))
    found = resolve.find_source(store, str(lora / ".." / "lora"))
    assert found == VariantSource(ModelSource(folder=str(base)), ModelSource(folder=str(lora)), 4)
    assert resolve.local_folder(store, found.base) == base
    assert resolve.local_folder(store, found.adapter) == lora


def test_a_remote_stores_artifact_is_copied_to_the_node(store, publish, tmp_path, monkeypatch):
    model = publish("Model", "pretrain", "config.json", {"here": 1})
    monkeypatch.setenv("RAYMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(type(store), "local_path", lambda self, key: None)
    folder = resolve.local_folder(store, ModelSource(artifact=model.id))
    assert folder.is_relative_to(tmp_path / "cache")
    assert json.loads((folder / "config.json").read_text()) == {"here": 1}


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("Model/pretrain-000000000000", "no such artifact"),
        ("@nothing", "no such artifact"),
        ("/nope/x", "serving.variants: tuned: /nope/x: no such folder"),
        ("./nope", "no such folder"),
        ("tokenizer", "is a Tokenizer, not a model"),
        ("orphan", "base model of Adapter/orphan-"),
        ("ia3", "not a LoRA adapter (peft_type IA3"),
    ],
)
def test_what_is_no_model_is_named(store, publish, reference, words):
    model = publish("Model", "pretrain", "config.json", {})
    publish("Tokenizer", "tokenizer", "tokenizer.json", {})
    publish("Adapter", "orphan", "adapter_config.json", {"r": 4})
    publish("Adapter", "ia3", "adapter_config.json", {"peft_type": "IA3"}, model=model)
    with pytest.raises(UserError) as caught:
        resolve.find_source(store, reference, where="serving.variants: tuned")
    assert words in str(caught.value)


def test_a_folder_without_a_model_or_an_adapter_without_its_base_is_named(store, folders):
    base, lora = folders
    (base / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is not in .*base"):
        resolve.find_source(store, str(base))
    with pytest.raises(UserError, match=r"base model is not here: .*base"):
        resolve.find_source(store, str(lora))
    with pytest.raises(UserError, match=r"config\.json is not in .*base"):
        resolve.model_folder(store, ModelSource(folder=str(base)))
    with pytest.raises(UserError, match=r"adapter_config\.json is not in .*base"):
        resolve.adapter_folder(store, ModelSource(folder=str(base)))
    with pytest.raises(UserError, match="not in the store"):
        resolve.local_folder(store, ModelSource(artifact="Model/gone-000000000000"))


def test_an_interpreter_is_looked_for_on_the_node(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert resolve.interpreter(EngineConfig(python=str(program))) == str(program)
    with pytest.raises(UserError, match="no interpreter"):
        resolve.interpreter(EngineConfig(python=str(tmp_path / "nowhere" / "python")))


@pytest.mark.parametrize(
    ("settings", "architectures", "reason", "advice"),
    [
        ({"peft_type": "LORA", "r": 8}, ["GPT2LMHeadModel"], "no adapters beside GPT2LMHeadModel", "merge it"),
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, ["LlamaForCausalLM"], "DoRA's magnitudes", "merge it"),
        ({"peft_type": "PREFIX_TUNING"}, ["LlamaForCausalLM"], "keys and values", "use it with transformers"),
    ],
)
def test_an_adapter_that_vllm_cannot_put_beside_its_base_is_refused_with_the_reason(
    store, publish, folders, settings, architectures, reason, advice
):
    model = publish("Model", "pretrain", "config.json", {"architectures": architectures})
    publish("Adapter", "finetune", "adapter_config.json", settings, model=model)
    base, lora = folders
    (base / "config.json").write_text(json.dumps({"architectures": architectures}))
    (lora / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    for reference in ("finetune", str(lora)):
        with pytest.raises(UserError, match=rf"cannot be served beside its base: .*{reason}") as caught:
            resolve.find_source(store, reference)
        assert caught.value.next_step.startswith(advice)
