"""A pretrained model with a head that names labels, and what of it is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from cluster.errors import UserError
from pipelines.finetune.classification.objective import takes_cache
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.methods import adapt, load_adapter
from pipelines.models.export import PARITY_TOLERANCE

TASK = "SEQ_CLS"
HEADS = ("classifier", "score")
"""What transformers calls a classifier's last part; peft always keeps these with an adapter."""

UNFIT = (ValueError, TypeError, AttributeError, RuntimeError, IndexError, NotImplementedError)
"""What a model raises that was not built for a method."""


def require_classifiable(folder: Path) -> None:
    """Raise UserError where transformers has no classifier for a stored model, or one that is not for texts."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = settings.get("raymill_class") or settings.get("model_type")
    advice = "name an encoder such as bert or roberta, or a decoder such as llama or gpt2"
    if "raymill_class" in settings or settings.get("is_encoder_decoder"):
        raise UserError(f"a {kind} takes no classifier's head", where="finetune.model", next_step=advice)
    try:
        known = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"transformers cannot read the model: {str(error).splitlines()[0]}",
            where="finetune.model",
            next_step=advice,
        ) from None
    if type(known) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(
            f"transformers has no classifier on models of the type {kind}", where="finetune.model", next_step=advice
        )


def tells_texts_apart(settings: Mapping[str, Any]) -> bool:
    """Whether a model has marks for the first and the second of two texts (``token_type_ids``)."""
    return int(settings.get("type_vocab_size") or 0) > 1


def load_classifier(folder: Path, labels: Sequence[str], pad_id: int) -> tuple[Any, list[str]]:
    """A stored model in fp32 under a head for these labels, and the names of its modules that are new.

    A classifier of just these labels keeps its head; any other model gets one with fresh weights.
    """
    settings = AutoConfig.from_pretrained(folder)
    names = {int(number): name for number, name in (settings.id2label or {}).items()}
    known = [names.get(number) for number in range(len(names))]
    settings.id2label = dict(enumerate(labels))
    settings.label2id = {label: number for number, label in enumerate(labels)}
    settings.problem_type = "single_label_classification"
    settings.pad_token_id = settings.get_text_config().pad_token_id = pad_id  # what tells a decoder where a text ends
    model, told = AutoModelForSequenceClassification.from_pretrained(
        folder, config=settings, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
    )
    fresh = {str(name) for name in told["missing_keys"]} | {str(each[0]) for each in told["mismatched_keys"]}
    if known != list(labels):
        for name, module in model.named_modules():
            parts = {f"{name}.{each}" for each, _ in module.named_parameters()}
            if name.rpartition(".")[2] in HEADS and not parts <= fresh:
                _renew(module, getattr(settings, "initializer_range", 0.02))
                fresh |= parts
    modules = {name.rpartition(".")[0] for name in fresh}
    return model, sorted(name for name in modules if name and not set(name.split(".")) & set(HEADS))


def _renew(head: torch.nn.Module, deviation: float) -> None:
    for module in head.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


def classifier(folder: Path, labels: Sequence[str], pad_id: int, config: FinetuneConfig) -> Any:
    """The classifier as the method trains it: with an adapter, the head and all that is new are trained beside it.

    Raises:
        UserError: the method does not fit the model, or lets it read padding.
    """
    base, new = load_classifier(folder, labels, pad_id)
    model = adapt(base, config, folder, TASK, new)
    require_blind_to_padding(model, pad_id, config.method)
    return model


def load_classifier_adapter(folder: Path, adapter: Path, labels: Sequence[str], pad_id: int) -> Any:
    """A stored base with a stored adapter and its head.

    Raises:
        UserError: the adapter is of another model.
    """
    base, _ = load_classifier(folder, labels, pad_id)
    return load_adapter(base, adapter)


def require_blind_to_padding(model: Any, pad_id: int, method: str) -> None:
    """Hold a padded text against the same alone.

    Raises:
        UserError: its logits differ, or the model cannot be asked at all.
    """
    kind, vocabulary = model.config.model_type, model.config.get_text_config().vocab_size
    ids = torch.tensor([(number * 7 + 3) % vocabulary for number in range(12)])
    ids = ids[ids != pad_id][:8]
    short = len(ids) // 2
    padded = torch.stack([ids, torch.cat([ids[:short], torch.full((len(ids) - short,), pad_id)])])
    mask = torch.ones_like(padded)
    mask[1, short:] = 0
    further = {"use_cache": False} if takes_cache(model) else {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            beside = model(input_ids=padded, attention_mask=mask, **further).logits[1]
            alone = model(input_ids=padded[1:, :short], attention_mask=mask[1:, :short], **further).logits[0]
        difference = float((beside - alone).abs().max())
    except UNFIT as error:
        raise UserError(
            f"method {method} does not fit a classifier on {kind}: {str(error).splitlines()[0]}",
            where="finetune.method",
            next_step="use lora, ia3 or full",
        ) from error
    finally:
        model.train(was_training)
    if math.isnan(difference) or difference > PARITY_TOLERANCE:
        raise UserError(
            f"with method {method} a classifier on {kind} reads the padding behind a text (logits differ by "
            f"{difference:.1e})",
            where="finetune.method",
            next_step="use lora, ia3 or full",
        )
