"""A model is found as a person names it; what it is does not depend on where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster.artifact import Artifact, Identity, InputEntry
from cluster.attempt import Attempt
from cluster.errors import InfraError, UserError
from cluster.store import Store
from cluster.store_local import LocalStore
from evals.sources import FolderSource, ModelSource, find_model
from evals.tokenizer import load_tokenizer

from .conftest import publish


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("about it")
    return folder


def adapter_of(folder: Path, base: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"change")
    return folder


def publish_adapter(store: Store, folder: Path, base: Artifact | None) -> Artifact:
    identity = Identity("Adapter", "finetune", 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        for path in folder.iterdir():
            shutil.copy(path, attempt.path(path.name))
        record = Artifact(
            kind="Adapter",
            name="finetune",
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            inputs={"model": InputEntry(id=base.id, fingerprint=base.fingerprint)} if base else {},
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


def test_a_folder_and_an_artifact_of_the_same_files_are_the_same_model(
    store: Store, model: Path, tmp_path: Path
) -> None:
    artifact = publish(store, "Model", "pretrain", model)
    shutil.copytree(model, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "README.md").write_text("other words")
    found = [find_model(store, name) for name in (str(model), str(tmp_path / "elsewhere"), artifact.id, "pretrain")]
    assert isinstance(found[0], FolderSource)
    assert isinstance(found[3], ModelSource)
    assert len({source.content_sha256 for source in found}) == 1
    before = found[0].content_sha256
    (model / "model.safetensors").write_bytes(b"other weights")
    assert find_model(store, str(model)).content_sha256 != before


def test_an_adapters_base_is_the_one_it_was_trained_on_unless_another_is_named(
    store: Store, model: Path, tmp_path: Path
) -> None:
    base = publish(store, "Model", "pretrain", model)
    folder = adapter_of(tmp_path / "adapter", "../model")
    artifact = publish_adapter(store, folder, base)
    by_record = find_model(store, "finetune")
    assert isinstance(by_record, ModelSource)
    assert (by_record.model.id, by_record.base) == (artifact.id, base)
    by_file = find_model(store, str(folder))
    assert isinstance(by_file, FolderSource)
    assert (by_file.base.resolve(), by_file.adapter) == (model, folder)
    assert (
        by_file.content_sha256 == by_record.content_sha256 == find_model(store, str(folder), "pretrain").content_sha256
    )
    assert by_file.content_sha256 != find_model(store, str(model)).content_sha256
    named = find_model(store, "finetune", str(model))
    assert isinstance(named, FolderSource)
    assert named.base == model


def test_what_is_no_model_is_refused_with_what_to_do(store: Store, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    lost = adapter_of(tmp_path / "lost", "")
    publish_adapter(store, lost, None)
    corpus = publish(store, "Corpus", "curate", model)
    for reference, base, said in (
        (str(tmp_path / "none"), None, "no such folder"),
        (str(tmp_path / "empty"), None, "neither config.json nor adapter_config.json"),
        (str(lost), None, "its base model is not known"),
        ("finetune", None, "its base model is gone"),
        (str(lost), str(lost), "is not a model"),
        (str(model), str(model), "takes no base"),
        (corpus.id, None, "is a Corpus, not a model"),
        ("nothing", None, "no such artifact"),
        ("Model/pretrain-123", None, "no such artifact"),
    ):
        with pytest.raises(UserError, match=said):
            find_model(store, reference, base)


def test_a_name_on_the_hub_comes_from_its_cache_or_says_that_it_is_not_there(
    store: Store, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    with pytest.raises(UserError, match="its cache does not have the model"):
        find_model(store, "some-team/some-model-that-is-nowhere")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(model))
    found = find_model(store, "hf://some-team/small")
    assert isinstance(found, FolderSource)
    assert (found.base, found.name) == (model, "small")


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    base, _ = find_model(LocalStore(tmp_path / "store"), str(tmp_path / "bare")).folders()
    with pytest.raises(UserError, match="has no tokenizer that can be loaded"):
        load_tokenizer(base)


def test_a_folder_that_is_not_on_a_node_is_the_infrastructures_fault(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="not on this node"):
        FolderSource(tmp_path / "elsewhere").folders()
