"""Write what was trained: an adapter in peft's format, or a whole model; each proved to be what was trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from cluster.errors import InternalError, UserError
from pipelines.finetune import bottleneck
from pipelines.finetune.methods import load_adapter, load_base, require_own_weights
from pipelines.models.export import (
    PARITY_TOLERANCE,
    copy_tokenizer,
    export_model,
    load_exported,
    logits_difference,
    longest,
)
from pipelines.models.stops import note_stops

MERGES = ("LORA", "IA3")
"""peft's types of adapters that are a change of the base's matrices."""

WRITTEN = "written"
"""What an adapter that was read again is called beside the trained one."""


def export_adapter(model: Any, base_folder: Path, base_name: str, folder: Path, probe: torch.Tensor) -> float:
    """Write an adapter folder with the tokenizer's files.

    Args:
        base_name: what the adapter's configuration calls its base; never a path of this machine.
        probe: token ids [n, length] whose logits must survive the export.

    Returns:
        the largest absolute difference of a logit between the model and the base with the reloaded adapter.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, folder, base_name)
    else:
        bottleneck.save(model, folder, base_name)
    copy_tokenizer(base_folder, folder, longest(model.config))
    again = load_adapter(load_base(base_folder), folder).to(probe.device)
    return _same(model, again, probe, folder, "the exported adapter differs from the trained one")


def export_quantised_adapter(
    model: PeftModel, base_folder: Path, base_name: str, folder: Path, probe: torch.Tensor
) -> float:
    """As :func:`export_adapter`, where the base is in 4 bits: what was written is put on that very base beside what
    was trained, since a second base may find no room.

    Raises:
        InternalError: the two differ by more than 1e-4 in a logit.
    """
    save_adapter(model, folder, base_name)
    copy_tokenizer(base_folder, folder, longest(model.config))
    was_training, trained = model.training, model.active_adapter
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=probe).logits.float()
        model.load_adapter(str(folder), WRITTEN)
        model.set_adapter(WRITTEN)
        found = model(input_ids=probe).logits.float()
    model.set_adapter(trained)
    model.delete_adapter(WRITTEN)
    model.train(was_training)
    return _within(float((found - expected).abs().max()), folder, "the exported adapter differs from the trained one")


def save_adapter(model: PeftModel, folder: Path, base_name: str) -> None:
    """Write an adapter in peft's format, the same bytes for the same weights."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form that names the base's path
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = base_name
    for name in ("target_modules", "feedforward_modules", "modules_to_save"):
        if isinstance(config.get(name), list):
            config[name] = sorted(set(config[name]))  # peft keeps a set, whose order differs between runs
    path.write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")


def export_merged(model: PeftModel, base_folder: Path, folder: Path, probe: torch.Tensor) -> float:
    """Merge an adapter into its base and write the whole model; the largest difference of a logit to the adapter's.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    model.eval()
    with torch.no_grad():
        before = model(probe, use_cache=False).logits.float()
    merged = model.merge_and_unload(safe_merge=True)
    export_model(merged, base_folder, folder, probe)
    with torch.no_grad():
        after = load_exported(folder).eval().to(probe.device)(probe, use_cache=False).logits.float()
    return _within(float((before - after).abs().max()), folder, "the merged model differs from the adapter on its base")


def merge_folders(adapter: Path, base: Path, folder: Path) -> float:
    """Merge a stored adapter into a stored base; see :func:`export_merged`.

    Raises:
        UserError: the adapter is of a kind that is no change of matrices, of another base, or on a matrix that is also
            another part's.
    """
    refuse_merging(adapter)
    model = load_adapter(load_base(base), adapter)
    require_own_weights(model, str(adapter))
    length = min(longest(model.config) or 32, 32)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(0, model.config.vocab_size, (2, length), generator=generator)
    difference = export_merged(model, base, folder, probe)
    if (adapter / "tokenizer_config.json").exists():
        copy_tokenizer(adapter, folder, longest(model.config))
        note_stops(folder)
    return difference


def refuse_merging(adapter: Path) -> None:
    """Raise UserError where an adapter cannot become part of its base's weights, with the reason."""
    path = adapter / "adapter_config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("peft_type", "LORA")
    except (OSError, ValueError):
        raise UserError(
            "holds no readable adapter_config.json", where=str(adapter), next_step="name a peft adapter's folder"
        ) from None
    if kind in MERGES:
        return
    reason = (
        "its bottlenecks are layers of their own with a non-linearity"
        if kind == bottleneck.KIND
        else "it is vectors in front of the text, not a change of the base's matrices"
    )
    raise UserError(
        f"an adapter of the type {kind} cannot be merged: {reason}",
        where=str(adapter),
        next_step="fine-tune with method lora, ia3 or full for weights of their own",
    )


def _same(first: Any, second: Any, probe: torch.Tensor, folder: Path, what: str) -> float:
    return _within(logits_difference(first, second, probe), folder, what)


def _within(difference: float, folder: Path, what: str) -> float:
    if math.isnan(difference) or difference > PARITY_TOLERANCE:
        raise InternalError(f"{what} by {difference:.2e} in a logit", where=str(folder))
    return difference
