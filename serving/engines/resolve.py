"""From what a person names to weights that an engine can read: model sources, and their folders on this node."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.artifact import Artifact, find_artifact, load_artifact, local_copy
from cluster.errors import UserError
from cluster.store import Store
from serving.config import EngineConfig
from serving.control.state import ModelSource
from serving.engines.adaptable import UNSERVED_PAIRS, verdict
from serving.engines.plan import VariantSource

MODEL_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"


def find_source(
    store: Store, reference: str, made: Mapping[str, Artifact] | None = None, where: str = "serving"
) -> VariantSource:
    """The weights that ``VariantConfig.model`` means; checked as far as it can be without copying any.

    Args:
        reference: ``@stage``, a folder, or an artifact's id or name.
        made: stage -> its artifact in this run; otherwise ``@stage`` is the newest artifact of that stage.
        where: for messages.

    Raises:
        UserError: there is no such thing, or it is not a model that vLLM serves.
    """
    if reference.startswith("@"):
        stage = reference[1:]
        return _of_artifact(store, made[stage] if made and stage in made else find_artifact(store, stage), where)
    folder = Path(reference)
    if folder.is_dir():
        return _of_folder(folder.resolve(), where)
    if reference.startswith((".", "/", "~")):
        raise UserError("no such folder", where=f"{where}: {reference}", next_step="check the path")
    return _of_artifact(store, find_artifact(store, reference), where)


def local_folder(store: Store, source: ModelSource, needed: str = "") -> Path:
    """A folder with the source's files on this node; an artifact in a remote store is copied once a node.

    Args:
        needed: the file that must be in it; by default the one of a model or of an adapter.

    Raises:
        UserError: the artifact or the folder is not there, or the file is not in it.
    """
    if source.artifact:
        artifact = load_artifact(store, source.artifact)
        if artifact is None:
            raise UserError(
                "the artifact is not in the store",
                where=store.uri(source.artifact),
                next_step="`raymill show` lists those that are",
            )
        folder = local_copy(store, artifact)
    else:
        folder = Path(source.folder)
    if not any((folder / name).is_file() for name in ((needed,) if needed else (MODEL_FILE, ADAPTER_FILE))):
        raise UserError(
            f"{needed or MODEL_FILE} is not in {folder}",
            where=f"serving: {source}",
            next_step="name a Hugging Face model folder, a peft LoRA folder, or the stage that makes one",
        )
    return folder


def model_folder(store: Store, source: ModelSource) -> Path:
    """:func:`local_folder` of full weights."""
    return local_folder(store, source, MODEL_FILE)


def adapter_folder(store: Store, source: ModelSource) -> Path:
    """:func:`local_folder` of an adapter."""
    return local_folder(store, source, ADAPTER_FILE)


def interpreter(config: EngineConfig) -> str:
    """The Python that runs vLLM on this node.

    Raises:
        UserError: there is no such program here.
    """
    if config.python is None:
        return sys.executable
    found = shutil.which(config.python)
    if found is None:
        raise UserError(
            f"there is no interpreter {config.python} on this node",
            where="serving.engine.python",
            next_step="install it, with its vLLM, in the same place on every node, or leave the key out",
        )
    return found


def _of_artifact(store: Store, artifact: Artifact, where: str) -> VariantSource:
    if artifact.kind == "Model":
        _refuse_pairs(_read(store, artifact), artifact.id, where)
        return VariantSource(ModelSource(artifact=artifact.id))
    if artifact.kind != "Adapter":
        raise UserError(
            f"{artifact.id} is a {artifact.kind}, not a model", where=where, next_step="name a Model or an Adapter"
        )
    parent = artifact.inputs.get("model")
    if parent is None or load_artifact(store, parent.id) is None:
        raise UserError(
            f"the base model of {artifact.id} is gone ({parent.id if parent else 'its record names none'})",
            where=where,
            next_step="run the recipe that made it again",
        )
    try:
        settings = json.loads(store.read(artifact.key(ADAPTER_FILE)))
    except FileNotFoundError:
        settings = {}
    base = load_artifact(store, parent.id)
    architectures = _architectures(_read(store, base)) if base else []
    adapter = ModelSource(artifact=artifact.id)
    return VariantSource(ModelSource(artifact=parent.id), adapter, _rank(settings, architectures, artifact.id, where))


def _of_folder(folder: Path, where: str) -> VariantSource:
    if (folder / MODEL_FILE).is_file():
        _refuse_pairs((folder / MODEL_FILE).read_bytes(), str(folder), where)
        return VariantSource(ModelSource(folder=str(folder)))
    try:
        settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{MODEL_FILE} is not in {folder}, nor is a readable {ADAPTER_FILE}",
            where=where,
            next_step="name a Hugging Face model folder, a peft LoRA folder, or the stage that makes one",
        ) from None
    base = Path(str(settings.get("base_model_name_or_path") or ""))
    base = base if base.is_absolute() else folder / base
    if not (base / MODEL_FILE).is_file():
        raise UserError(
            f"the adapter's base model is not here: {base} (base_model_name_or_path in {folder / ADAPTER_FILE})",
            where=where,
            next_step="put the base model's folder there, or write its place into that file",
        )
    text = (base / MODEL_FILE).read_bytes()
    _refuse_pairs(text, str(base), where)
    architectures = _architectures(text)
    rank = _rank(settings, architectures, str(folder), where)
    return VariantSource(ModelSource(folder=str(base.resolve())), ModelSource(folder=str(folder)), rank)


def _rank(settings: Mapping[str, Any], architectures: Sequence[str], adapter: str, where: str) -> int:
    """An adapter's rank, from its adapter_config.json.

    Raises:
        UserError: vLLM cannot serve it beside its base; with the reason, and what can be done.
    """
    found = verdict(settings, architectures)
    if found.how != "adapter":
        raise UserError(
            f"{adapter} cannot be served beside its base: {found.reason}", where=where, next_step=found.advice
        )
    return int(settings["r"])


def _read(store: Store, model: Artifact) -> bytes:
    """A model's config.json; empty where it has none, of which the engine speaks."""
    try:
        return store.read(model.key(MODEL_FILE))
    except FileNotFoundError:
        return b"{}"


def _refuse_pairs(text: bytes, name: str, where: str) -> None:
    """Raise UserError where a model's config.json says that it is an encoder-decoder; damaged, it is the engine's."""
    try:
        found = json.loads(text)
    except ValueError:
        return
    if isinstance(found, dict) and found.get("is_encoder_decoder"):
        raise UserError(
            f"{name} is an encoder-decoder ({found.get('model_type')}): {UNSERVED_PAIRS}",
            where=where,
            next_step="use it with transformers (AutoModelForSeq2SeqLM), or serve a decoder",
        )


def _architectures(text: bytes) -> list[str]:
    """What a model's config.json says that it is."""
    found = json.loads(text).get("architectures")
    return [str(each) for each in found] if isinstance(found, list) else []
