"""LoRA through the peft library: put adapters into a model, and write them in peft's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from cluster.errors import InternalError, UserError
from pipelines.finetune.config import FinetuneConfig
from pipelines.models.export import PARITY_TOLERANCE, copy_tokenizer, logits_difference


def load_base(folder: Path) -> Any:
    """A stored model in fp32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def add_adapters(base: Any, config: FinetuneConfig) -> PeftModel:
    """The model with fresh adapters; only they can be trained, and at first they change nothing.

    Raises:
        UserError: the model has none of the target modules.
    """
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, settings)
    except ValueError as error:
        raise UserError(
            f"the adapters do not fit the model: {error}",
            where="finetune.target_modules",
            next_step="name matrices that the model has",
        ) from None


def export_adapter(model: PeftModel, base_folder: Path, base_name: str, folder: Path, probe: torch.Tensor) -> float:
    """Write a peft adapter folder with the tokenizer's files.

    Args:
        base_name: what the adapter's configuration calls its base; never a path of this machine.
        probe: token ids [n, length] whose logits must survive the export.

    Returns:
        the largest absolute difference of a logit between the model and the base with the reloaded adapter.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form that names the base's path
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set, whose order differs between runs
    path.write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
    copy_tokenizer(base_folder, folder, model.config.max_position_embeddings)
    again = PeftModel.from_pretrained(load_base(base_folder).to(probe.device), folder)
    difference = logits_difference(model, again, probe)
    if not difference <= PARITY_TOLERANCE:
        raise InternalError(
            f"the exported adapter differs from the trained one by {difference:.2e} in a logit", where=str(folder)
        )
    return difference
