"""Which model is evaluated: an artifact, a folder or a name on the Hub, alone or as base + adapter; or a served URL."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from cluster.artifact import Artifact, find_artifact, load_artifact, local_copy
from cluster.errors import InfraError, UserError
from cluster.store import Store
from evals.mirror import hash_files

MODEL_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"
_HUB_NAME = re.compile(r"^[\w][\w.-]*/[\w][\w.-]*$")


@dataclass(frozen=True)
class ModelSource:
    """A model that is an artifact, in a form that reaches workers on other machines.

    Attributes:
        model: a Model, or an Adapter over ``base``.
        base: the adapter's Model.
    """

    store: Store
    model: Artifact
    base: Artifact | None = None

    @property
    def name(self) -> str:
        """What to call it in a report."""
        return self.model.name

    @property
    def content_sha256(self) -> str:
        """SHA-256 over the files that make it, wherever they lie."""
        parts = [self.model] if self.base is None or self.model.kind != "Adapter" else [self.base, self.model]
        lines = [f"{entry.path}\0{entry.sha256}\n" for part in parts for entry in part.files if _matters(entry.path)]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def folders(self) -> tuple[Path, Path | None]:
        """Local folders of the full model and of the adapter, fetched where they are not on this machine."""
        own = local_copy(self.store, self.model)
        if self.model.kind != "Adapter":
            return own, None
        if self.base is None:
            raise UserError(
                "is an adapter, and its base model is not given",
                where=self.model.id,
                next_step="give the model that it was trained on as `base`",
            )
        return local_copy(self.store, self.base), own


@dataclass(frozen=True)
class FolderSource:
    """A model in a folder, which has to be at the same place on every node.

    Attributes:
        base: the full model.
        adapter: a peft adapter over it.
    """

    base: Path
    adapter: Path | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """What to call it in a report."""
        return self.label or (self.adapter or self.base).name

    @property
    def content_sha256(self) -> str:
        """SHA-256 over the files that make it; the same as of an artifact with the same files."""
        lines = [
            f"{path}\0{entry.sha256}\n"
            for folder in (self.base, self.adapter)
            if folder is not None
            for path, entry in hash_files(folder, ["."]).items()
            if _matters(path)
        ]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def folders(self) -> tuple[Path, Path | None]:
        """The two folders; see :class:`ModelSource`.

        Raises:
            InfraError: they are not on this node.
        """
        for folder in (self.base, self.adapter):
            if folder is not None and not folder.is_dir():
                raise InfraError(
                    "the model's folder is not on this node",
                    where=str(folder),
                    next_step="put it on storage that all nodes share, or publish it as an artifact in the store",
                )
        return self.base, self.adapter


Source = ModelSource | FolderSource


def _matters(path: str) -> bool:
    return Path(path).suffix not in (".md", ".html") and Path(path).name not in ("training_args.bin", ".gitattributes")


def find_model(store: Store, reference: str, base: str | None = None) -> Source:
    """The model that a person names.

    Args:
        reference: a folder, an artifact's id or stage name, or ``organisation/name`` on the Hub.
        base: the same for an adapter's base model; by default the one that it was trained on.

    Raises:
        UserError: there is no such model, or it is not complete.
    """
    found = _find(store, reference)
    if isinstance(found, Artifact):
        return _of_artifact(store, found, base)
    if (found / ADAPTER_FILE).is_file() and not (found / MODEL_FILE).is_file():
        return FolderSource(_base_folder(store, found, base), found, _label(reference))
    if base is not None:
        raise UserError("is a full model and takes no base", where=reference, next_step="leave --base out")
    if not (found / MODEL_FILE).is_file():
        raise UserError(
            f"neither {MODEL_FILE} nor {ADAPTER_FILE} is in it",
            where=str(found),
            next_step="name a Hugging Face model folder, or a peft adapter's",
        )
    return FolderSource(found, None, _label(reference))


def _label(reference: str) -> str:
    return reference.removeprefix("hf://").rstrip("/").rpartition("/")[2] if "/" in reference else reference


def _find(store: Store, reference: str) -> Artifact | Path:
    folder = Path(reference).expanduser()
    if not reference.startswith("hf://"):
        if folder.is_dir():
            return folder.resolve()
        if reference.startswith((".", "/", "~")):
            raise UserError("no such folder", where=reference, next_step="check the path")
        try:
            return find_artifact(store, reference.removeprefix("@"))
        except UserError as error:
            if not _HUB_NAME.match(reference) or "several" in error.what:
                raise
            if reference.split("/")[0] in ("Model", "Adapter"):
                raise
    return _from_hub(reference.removeprefix("hf://"))


def _from_hub(name: str) -> Path:
    """A model's files on the Hub, or in its cache where the Hub is switched off.

    Raises:
        UserError: there is no such model, or it is not in the cache and the Hub is switched off.
        InfraError: the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.bin"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise UserError(
            f"cannot be had from the Hub: {str(error).strip().splitlines()[0]}",
            where=name,
            next_step="check the name (a folder or an artifact is meant? then it is not there); for a gated model set"
            " HF_TOKEN",
        ) from None
    except LocalEntryNotFoundError:
        raise UserError(
            "no such folder or artifact, and on the Hub it cannot be looked up: the Hub is switched off or out of"
            " reach, and its cache does not have the model",
            where=name,
            next_step="download it where there is a network (`hf download`), and name the folder",
        ) from None
    except OSError as error:
        raise InfraError(
            f"the Hub cannot be reached: {str(error).splitlines()[0]}", where=name, next_step="repeat the command"
        ) from error


def _of_artifact(store: Store, artifact: Artifact, base: str | None) -> Source:
    if artifact.kind == "Model":
        if base is not None:
            raise UserError("is a full model and takes no base", where=artifact.id, next_step="leave --base out")
        return ModelSource(store, artifact)
    if artifact.kind != "Adapter":
        raise UserError(f"is a {artifact.kind}, not a model", where=artifact.id, next_step="name a Model or an Adapter")
    if base is not None:
        found = _find(store, base)
        if isinstance(found, Path):
            return FolderSource(found, local_copy(store, artifact), artifact.name)
        return ModelSource(store, artifact, found)
    parent = artifact.inputs.get("model")
    loaded = load_artifact(store, parent.id) if parent else None
    if loaded is None:
        raise UserError(
            f"its base model is gone ({parent.id if parent else 'its record names none'})",
            where=artifact.id,
            next_step="name it with --base",
        )
    return ModelSource(store, artifact, loaded)


def _base_folder(store: Store, adapter: Path, base: str | None) -> Path:
    if base is None:
        try:
            settings = json.loads((adapter / ADAPTER_FILE).read_text(encoding="utf-8"))
        except ValueError:
            settings = {}
        base = str(settings.get("base_model_name_or_path") or "")
        if base and not Path(base).is_absolute() and (adapter / base).is_dir():
            base = str(adapter / base)
    if not base:
        raise UserError("its base model is not known", where=str(adapter), next_step="name it with --base")
    found = _find(store, base)
    folder = local_copy(store, found) if isinstance(found, Artifact) else found
    if not (folder / MODEL_FILE).is_file():
        raise UserError(
            f"the adapter's base model is not a model: {MODEL_FILE} is not in it",
            where=str(folder),
            next_step="name the full model with --base",
        )
    return folder
