"""`raymill merge`: an adapter into its base, as one Hugging Face model."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from cluster.artifact import Artifact, find_artifact, load_artifact, local_copy
from cluster.errors import UserError
from cluster.store import Store, open_store


def merge(arguments: Namespace) -> int:
    """Write the merged model; nothing that is there is written over."""
    destination = Path(arguments.destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError("is there already", where=str(destination), next_step="name a folder that is new or empty")
    store = open_store(arguments.store)
    adapter, parent = _adapter(store, arguments.adapter)
    from pipelines.finetune.classification.export import is_classifier, merge_classifier
    from pipelines.finetune.export import merge_folders, refuse_merging
    from pipelines.finetune.quantised import merged_note
    from pipelines.finetune.seq2seq.export import is_of_pairs, merge_pairs

    refuse_merging(adapter)
    base = _base(store, arguments.base, adapter, parent)
    write = merge_classifier if is_classifier(adapter) else merge_pairs if is_of_pairs(adapter) else merge_folders
    difference = write(adapter, base, destination)
    note = merged_note(adapter)
    result = {"adapter": arguments.adapter, "base": str(base), "to": str(destination), "difference": difference}
    result |= {"note": note} if note else {}
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"wrote {destination}: {arguments.adapter} merged into {base} (largest difference {difference:.1e})")
        if note:
            print(note)
    return 0


def _adapter(store: Store, reference: str) -> tuple[Path, Artifact | None]:
    if Path(reference).is_dir():
        return Path(reference), None
    artifact = find_artifact(store, reference)
    if artifact.kind not in ("Adapter", "ClassifierAdapter", "Seq2SeqAdapter"):
        raise UserError(
            f"{artifact.id} is a {artifact.kind}, not an adapter", where=reference, next_step="name an adapter"
        )
    return local_copy(store, artifact), artifact


def _base(store: Store, given: str | None, adapter: Path, artifact: Artifact | None) -> Path:
    """The folder of the base model: the one that is named, or the one that the adapter was trained on."""
    if given is not None:
        return Path(given) if Path(given).is_dir() else local_copy(store, find_artifact(store, given))
    parent = artifact.inputs.get("model") if artifact else None
    model = load_artifact(store, parent.id) if parent else None
    if model is not None:
        return local_copy(store, model)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    named = str(settings.get("base_model_name_or_path") or "")
    if artifact is None and named:
        folder = Path(named) if Path(named).is_absolute() else adapter / named
        if folder.is_dir():
            return folder
        model = load_artifact(store, named) if named.startswith("Model/") else None
        if model is not None:
            return local_copy(store, model)
    raise UserError(
        f"its base model is not here ({parent.id if parent else named or 'it names none'})",
        where=str(adapter),
        next_step="name it with --base",
    )
