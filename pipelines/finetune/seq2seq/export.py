"""Write an encoder-decoder, or an adapter of it; each proved to be what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cluster.errors import InternalError
from pipelines.finetune.export import save_adapter
from pipelines.finetune.load import load_tokenizer
from pipelines.finetune.seq2seq.model import TASK, TargetMarks, load_encoder_decoder, load_pairs_adapter, target_marks
from pipelines.models.export import PARITY_TOLERANCE, copy_tokenizer, longest
from pipelines.train.task import Batch

PROBED = 16
"""Positions that a merge is proved on."""


def export_pairs(model: Any, marks: TargetMarks, tokenizer_folder: Path, folder: Path, probe: Batch) -> float:
    """Write a whole model for AutoModelForSeq2SeqLM; an adapter is merged into it before.

    Returns:
        the largest absolute difference of a logit between what was trained and what was written.

    Raises:
        InternalError: that difference exceeds 1e-4.
    """
    expected = _logits(model, probe)
    whole = model.merge_and_unload(safe_merge=True) if hasattr(model, "merge_and_unload") else model
    whole.float()
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(tokenizer_folder, folder, longest(whole.config))
    whole.save_pretrained(folder, safe_serialization=True)
    return _within(_logits(load_encoder_decoder(folder, marks).to(expected.device), probe), expected, folder)


def export_pairs_adapter(
    model: Any, marks: TargetMarks, base_folder: Path, base_name: str, folder: Path, probe: Batch
) -> float:
    """Write an adapter in peft's format; see :func:`export_pairs`.

    Args:
        base_name: what the adapter's configuration calls its base; never a path of this machine.

    Raises:
        InternalError: the base with what was written differs by more than 1e-4 in a logit.
    """
    save_adapter(model, folder, base_name)
    copy_tokenizer(base_folder, folder, longest(model.config))
    expected = _logits(model, probe)
    return _within(_logits(load_pairs_adapter(base_folder, marks, folder).to(expected.device), probe), expected, folder)


def is_of_pairs(adapter: Path) -> bool:
    """Whether a folder has an adapter of an encoder-decoder."""
    path = adapter / "adapter_config.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("task_type") == TASK


def merge_pairs(adapter: Path, base: Path, folder: Path) -> float:
    """Merge a stored adapter into a stored base; the largest difference of a logit to the adapter's.

    Raises:
        UserError: the adapter is of another base.
    """
    with_tokenizer = adapter if (adapter / "tokenizer_config.json").exists() else base
    marks = target_marks(base, load_tokenizer(with_tokenizer))
    model = load_pairs_adapter(base, marks, adapter)
    rows = int(model.get_base_model().get_input_embeddings().num_embeddings)
    length = min(longest(model.config) or PROBED, PROBED)
    ids = torch.randint(0, rows, (2, length), generator=torch.Generator().manual_seed(0))
    return export_pairs(model, marks, with_tokenizer, folder, Batch(ids, ids, {"decoder_input_ids": ids}))


def _logits(model: Any, probe: Batch) -> torch.Tensor:
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    arguments = {name: value.to(device) for name, value in probe.arguments.items()}
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=probe.inputs.to(device), use_cache=False, **arguments).logits.float()
    model.train(was_training)
    return found


def _within(found: torch.Tensor, expected: torch.Tensor, folder: Path) -> float:
    difference = float((found - expected).abs().max())
    if not difference <= PARITY_TOLERANCE:
        raise InternalError(
            f"the exported model differs from the trained one by {difference:.2e} in a logit", where=str(folder)
        )
    return difference
