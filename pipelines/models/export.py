"""Write a model as a Hugging Face folder, and prove that what was written is the model that was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from cluster.errors import InternalError
from pipelines.models.own import load_stored, save_own
from pipelines.models.stops import given_stops, stop_ids, united

PARITY_TOLERANCE = 1e-4
LOADERS: dict[str, Any] = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def export_model(
    model: Any,
    tokenizer_folder: Path,
    folder: Path,
    probe: torch.Tensor,
    arguments: Mapping[str, torch.Tensor] | None = None,
) -> float:
    """Write weights in fp32 safetensors, ``config.json``, ``generation_config.json`` and the tokenizer's files.

    Args:
        model: a transformers model, or one of the user's own (:mod:`pipelines.models.own`).
        probe: token ids [n, length] whose logits must survive the export.
        arguments: what ``forward`` takes besides, for example ``decoder_input_ids``.

    Returns:
        the largest absolute difference of a logit between the model and its reloaded copy.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.float()
    if hasattr(model, "own_record"):
        copy_tokenizer(tokenizer_folder, folder, model.own_positions)
        save_own(model, folder)
    else:
        copy_tokenizer(tokenizer_folder, folder, longest(model.config))
        if model.can_generate():
            model.generation_config.eos_token_id = united(stop_ids(folder), given_stops(model.generation_config))
            model.generation_config.bos_token_id = model.config.bos_token_id
            model.generation_config.pad_token_id = model.config.pad_token_id
        model.save_pretrained(folder, safe_serialization=True)
    difference = logits_difference(model, load_exported(folder).to(probe.device), probe, arguments)
    if not difference <= PARITY_TOLERANCE:
        raise InternalError(
            f"the exported model differs from the trained one by {difference:.2e} in a logit",
            where=str(folder),
            next_step="this is a defect of the export; keep the run's checkpoints and report it",
        )
    return difference


def load_exported(folder: Path) -> Any:
    """The model in a folder that :func:`export_model` wrote, in fp32, by the class that its kind is loaded with."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "raymill_class" in settings:
        return load_stored(folder)
    loader = LOADERS.get(settings["model_type"], AutoModelForCausalLM)
    return loader.from_pretrained(folder, dtype=torch.float32)


def longest(config: Any) -> int | None:
    """The longest sequence that a model takes; None where positions are relative."""
    found = getattr(config, "max_position_embeddings", None)
    return None if found is None else int(found)


def logits_difference(
    first: Any, second: Any, probe: torch.Tensor, arguments: Mapping[str, torch.Tensor] | None = None
) -> float:
    """The largest absolute difference between two models' logits on the same tokens."""
    was_training = first.training
    first.eval()
    second.eval()
    inputs = {"input_ids": probe, **{name: value.to(probe.device) for name, value in (arguments or {}).items()}}
    with torch.no_grad():
        difference = (first(**inputs).logits.float() - second(**inputs).logits.float()).abs().max()
    first.train(was_training)
    return float(difference)


def copy_tokenizer(source: Path, folder: Path, max_positions: int | None) -> None:
    """Copy a tokenizer's files and note the model's context in them."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if max_positions is not None:
        config["model_max_length"] = max_positions
    path.write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
