"""Which keys of the recipe's section mean something to which task. Loads nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.finetune.examples.config import RowData

if TYPE_CHECKING:
    from pipelines.finetune.config import FinetuneConfig

OF_CLASSES = ("labels", "class_weights")
OF_WRITING = ("loss_on", "packing", "chat_template", "forgetting", "z_loss")


def refuse_for_task(config: FinetuneConfig, defaults: Mapping[str, Any]) -> None:
    """Check a section against its task.

    Args:
        defaults: key -> its value where nobody sets it.

    Raises:
        ValueError: a key means nothing to the task, or the task needs one that is not there.
    """
    foreign = OF_WRITING if config.task == "classification" else OF_CLASSES
    for name in foreign:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name} means nothing to task {config.task}: leave it out")
    if config.task == "classification":
        _refuse_classification(config)


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
