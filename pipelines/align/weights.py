"""The model to align: loaded, given adapters or not, and written as one whole model at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.errors import InternalError, UserError
from pipelines.align.actor import VALUE_HEAD
from pipelines.align.config import AlignConfig
from pipelines.models.export import PARITY_TOLERANCE, copy_tokenizer, export_model, logits_difference, longest


def load_base(folder: Path, adapter: Path | None) -> Any:
    """A stored causal model in fp32, its adapter merged into it, and without dropout, which would blur every ratio.

    Raises:
        UserError: it is a model that transformers does not know, or that predicts no next token.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "raymill_class" in settings or settings.get("is_encoder_decoder") or settings["model_type"] == "bert":
        raise UserError(
            f"a {settings.get('raymill_class', settings.get('model_type'))} cannot be aligned",
            where="align",
            next_step="align a decoder that transformers knows, such as llama or gpt2",
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def as_scorer(model: Any, pad_id: int) -> Any:
    """A causal model's body under a fresh head that gives one number for a text."""
    settings = type(model.config).from_dict(model.config.to_dict() | {"num_labels": 1, "pad_token_id": pad_id})
    scorer = AutoModelForSequenceClassification.from_config(settings, dtype=torch.float32)
    prefix = scorer.base_model_prefix
    getattr(scorer, prefix).load_state_dict(getattr(model, model.base_model_prefix).state_dict())
    return scorer


def trainable(model: Any, config: AlignConfig) -> Any:
    """The model as ``align.weights`` says: all of it, or with fresh adapters on every matrix of its layers."""
    if config.weights == "full":
        return model
    from peft import LoraConfig, get_peft_model

    scores = config.method == "reward"
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules="all-linear",
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        modules_to_save=["score"] if scores else None,
    )
    return get_peft_model(model, settings)


def merged(model: Any, probe: torch.Tensor) -> Any:
    """The model in one piece, without adapters and value head.

    Raises:
        InternalError: merging changed a logit by more than 1e-4.
    """
    if hasattr(model, VALUE_HEAD):
        delattr(model, VALUE_HEAD)
    if not hasattr(model, "merge_and_unload"):
        return model
    model.eval()
    with torch.no_grad():
        before = model(input_ids=probe).logits.float()
        whole = model.merge_and_unload()
        difference = float((whole(input_ids=probe).logits.float() - before).abs().max())
    if not difference <= PARITY_TOLERANCE:
        raise InternalError(f"merging the adapters changed a logit by {difference:.2e}", where="align")
    return whole


def export_aligned(model: Any, tokenizer_folder: Path, folder: Path, probe: torch.Tensor) -> float:
    """Write the model whole; the largest difference of a logit to what was trained."""
    return export_model(merged(model, probe), tokenizer_folder, folder, probe)


def export_scorer(model: Any, tokenizer_folder: Path, folder: Path, probe: torch.Tensor) -> float:
    """Write a reward model as a Hugging Face sequence classifier with its tokenizer's files.

    Raises:
        InternalError: what was written scores otherwise.
    """
    whole = merged(model, probe).float()
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(tokenizer_folder, folder, longest(whole.config))
    whole.save_pretrained(folder, safe_serialization=True)
    again = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(probe.device)
    difference = logits_difference(whole, again, probe)
    if not difference <= PARITY_TOLERANCE:
        raise InternalError(f"the exported reward model differs by {difference:.2e} in a score", where=str(folder))
    return difference
