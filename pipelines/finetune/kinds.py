"""Which keys of the recipe's section mean something to which task. Loads nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.finetune.examples.config import RowData

if TYPE_CHECKING:
    from pipelines.finetune.config import FinetuneConfig

OF_CLASSES = ("labels", "class_weights")
OF_CHATS = ("loss_on", "packing", "chat_template", "forgetting")
FOREIGN: dict[str, tuple[str, ...]] = {
    "generation": OF_CLASSES,
    "classification": (*OF_CHATS, "answers_scored", "z_loss"),
    "seq2seq": (*OF_CLASSES, *OF_CHATS),
}
"""Task -> keys that mean nothing to it."""

OF_MATRICES = ("full", "lora", "ia3")
"""Methods that change a model's matrices, wherever these are."""


def refuse_for_task(config: FinetuneConfig, defaults: Mapping[str, Any]) -> None:
    """Check a section against its task.

    Args:
        defaults: key -> its value where nobody sets it.

    Raises:
        ValueError: a key means nothing to the task, or the task needs one that is not there.
    """
    for name in FOREIGN[config.task]:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name} means nothing to task {config.task}: leave it out")
    if config.task == "classification":
        _refuse_classification(config)
    if config.task == "seq2seq":
        _refuse_seq2seq(config)


def _refuse_classification(config: FinetuneConfig) -> None:
    if not isinstance(config.data, RowData):
        raise ValueError('classification learns from rows such as {"text": "…", "label": "…"}: name them in data')
    if config.data.system is not None:
        raise ValueError("data.system is for conversations: a text that is classified has no speaker")
    if config.method == "adapter":
        raise ValueError(
            "bottleneck adapters have no place for a classifier's head: use lora, which peft keeps with it"
        )
    if config.labels is not None and len(set(config.labels)) < len(config.labels):
        raise ValueError("labels names one twice: each has one number")
    if isinstance(config.class_weights, dict):
        for label, weight in config.class_weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"class_weights: {label} has the weight {weight:g}: write a number above 0")


def _refuse_seq2seq(config: FinetuneConfig) -> None:
    if config.method not in OF_MATRICES:
        raise ValueError(
            f"{config.method} has its place in front of or between the layers of one decoder, and an encoder-decoder "
            f"has two stacks: use {', '.join(OF_MATRICES[:-1])} or {OF_MATRICES[-1]}"
        )
    if isinstance(config.data, RowData) and config.data.system is not None:
        raise ValueError("data.system is for conversations: write what the model is to do into the prompts")
