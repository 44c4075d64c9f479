"""Write a classifier, or its adapter with its head; each proved to be what was trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from cluster.errors import InternalError
from pipelines.finetune.classification.model import load_classifier_adapter, tells_texts_apart
from pipelines.finetune.export import save_adapter
from pipelines.finetune.load import load_tokenizer
from pipelines.models.export import PARITY_TOLERANCE, copy_tokenizer, logits_difference, longest
from pipelines.train.task import Batch


def export_classifier(model: Any, tokenizer_folder: Path, folder: Path, probe: Batch) -> float:
    """Write a whole classifier for AutoModelForSequenceClassification; an adapter is merged into it before.

    Returns:
        the largest absolute difference of a logit between what was trained and what was written.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    device = next(model.parameters()).device
    expected = _logits(model, probe, device)
    whole = model.merge_and_unload(safe_merge=True) if hasattr(model, "merge_and_unload") else model
    whole.float()
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(tokenizer_folder, folder, whole.config)
    whole.save_pretrained(folder, safe_serialization=True)
    again = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device)
    return _within(float((_logits(again, probe, device) - expected).abs().max()), folder)


def export_classifier_adapter(model: Any, base_folder: Path, base_name: str, folder: Path, probe: Batch) -> float:
    """Write an adapter in peft's format with its head, and beside it the classifier's ``config.json``: its labels.

    Args:
        base_name: what the adapter's configuration calls its base; never a path of this machine.

    Raises:
        InternalError: the base with what was written differs by more than 1e-4 in a logit.
    """
    save_adapter(model, folder, base_name)
    base = model.get_base_model()
    _write_tokenizer(base_folder, folder, base.config)
    settings = base.config.to_dict() | {"architectures": [type(base).__name__]}
    settings.pop("_name_or_path", None)  # a path of this machine
    (folder / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
    device = next(model.parameters()).device
    again = load_folders(folder, base_folder).to(device)
    return _within(logits_difference(model, again, probe.inputs.to(device), probe.arguments), folder)


def is_classifier(adapter: Path) -> bool:
    """Whether a folder has an adapter of a classifier."""
    path = adapter / "adapter_config.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("task_type") == "SEQ_CLS"


def load_folders(adapter: Path, base: Path) -> Any:
    """A stored base with a stored adapter, whose folder says the labels."""
    settings = AutoConfig.from_pretrained(adapter)
    labels = [settings.id2label[number] for number in range(settings.num_labels)]
    return load_classifier_adapter(base, adapter, labels, settings.get_text_config().pad_token_id)


def merge_classifier(adapter: Path, base: Path, folder: Path) -> float:
    """Merge a stored adapter into a stored base; the largest difference of a logit to the adapter's."""
    model = load_folders(adapter, base)
    settings = model.config.get_text_config()
    length = min(longest(settings) or 32, 32) - 2  # some count positions from behind the padding's number
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(0, settings.vocab_size, (2, length), generator=generator)
    return export_classifier(model, adapter, folder, Batch(probe, torch.zeros(2), {}))


def _logits(model: Any, probe: Batch, device: Any) -> torch.Tensor:
    was_training = model.training
    model.eval()
    arguments: Mapping[str, torch.Tensor] = {name: value.to(device) for name, value in probe.arguments.items()}
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=probe.inputs.to(device), **arguments).logits.float()
    model.train(was_training)
    return found


def _write_tokenizer(source: Path, folder: Path, settings: Any) -> None:
    """The tokenizer's files: who asks gets the padding, and the marks of two texts, that were trained with."""
    copy_tokenizer(source, folder, longest(settings))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if not config.get("pad_token"):
        config["pad_token"] = load_tokenizer(source).convert_ids_to_tokens(settings.get_text_config().pad_token_id)
    if tells_texts_apart(settings.to_dict()):
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def _within(difference: float, folder: Path) -> float:
    if math.isnan(difference) or difference > PARITY_TOLERANCE:
        raise InternalError(
            f"the exported classifier differs from the trained one by {difference:.2e} in a logit", where=str(folder)
        )
    return difference
