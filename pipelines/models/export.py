"""Write a model as a Hugging Face folder, and prove that what was written is the model that was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cluster.errors import InternalError
from pipelines.tokens.special import END

PARITY_TOLERANCE = 1e-4
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def export_model(model: Any, tokenizer_folder: Path, folder: Path, probe: torch.Tensor) -> float:
    """Write weights in fp32 safetensors, ``config.json``, ``generation_config.json`` and the tokenizer's files.

    Args:
        model: a transformers model.
        probe: token ids [n, length] whose logits must survive the export.

    Returns:
        the largest absolute difference of a logit between the model and its reloaded copy.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(tokenizer_folder, folder, model.config.max_position_embeddings)
    model.generation_config.eos_token_id = stop_ids(folder)
    model.generation_config.bos_token_id = model.config.bos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.float().save_pretrained(folder, safe_serialization=True)
    copy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(probe.device)
    difference = logits_difference(model, copy, probe)
    if not difference <= PARITY_TOLERANCE:
        raise InternalError(
            f"the exported model differs from the trained one by {difference:.2e} in a logit",
            where=str(folder),
            next_step="this is a defect of the export; keep the run's checkpoints and report it",
        )
    return difference


def logits_difference(first: Any, second: Any, probe: torch.Tensor) -> float:
    """The largest absolute difference between two models' logits on the same tokens."""
    was_training = first.training
    first.eval()
    second.eval()
    with torch.no_grad():
        difference = (first(input_ids=probe).logits.float() - second(input_ids=probe).logits.float()).abs().max()
    first.train(was_training)
    return float(difference)


def copy_tokenizer(source: Path, folder: Path, max_positions: int) -> None:
    """Copy a tokenizer's files and note the model's context in them."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_max_length"] = max_positions
    path.write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def stop_ids(tokenizer_folder: Path) -> list[int]:
    """Ids at which generation ends: the end of a document, and where the template has one, of an answer."""
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    known = {token["content"]: int(token["id"]) for token in tokens}
    eos = config.get("eos_token")
    names = [eos["content"] if isinstance(eos, dict) else eos, END]
    return [known[name] for name in names if name in known]
