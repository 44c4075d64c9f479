"""What stages that train report, and which way of it is up: known before anything runs. Light."""

from __future__ import annotations

import re
from typing import Any

from pipelines.align.config import AlignConfig
from pipelines.finetune.config import FinetuneConfig

OF_TRAINING = ("validation.loss", "train.loss", "tokens_per_second")
OF_TOKENS = ("validation.loss", "validation.perplexity", "train.loss", "tokens_per_second")
OF_CLASSES = ("accuracy", "majority_accuracy", "precision_macro", "recall_macro", "f1_macro")
OF_A_CLASS = ("precision", "recall", "f1")
OF_LIKENESS = ("rouge1", "rouge2", "rougeL", "bleu")
OF_PAIRS = {
    "reward": ("accuracy", "margin"),
    "dpo": ("accuracy", "margin", "entropy", "kl_per_token"),
    "simpo": ("accuracy", "margin", "entropy"),
}
OF_ANSWERS = ("reward", "kl", "kl_per_token", "length", "cut", "distinct")

SCORES = {"accuracy", "acc", "f1", "precision", "recall", "rouge1", "rouge2", "rougeL", "bleu", "exact", "correct"}
BEST_HIGH = SCORES | {"mc1", "mc2", "reward", "margin", "distinct", "second"}
"""Words in names of metrics whose highest is the best; the last is that of ``tokens_per_second``."""


def reported(config: Any) -> tuple[str, ...]:
    """Metrics of the artifact that a section's stage makes; nothing where that is not known in advance.

    A classifier reports ``validation.f1.LABEL`` and the like as well: see :func:`is_of_a_class`.
    """
    if isinstance(config, FinetuneConfig):
        return _of_finetuning(config)
    if isinstance(config, AlignConfig):
        figures = OF_ANSWERS if config.on_policy else OF_PAIRS[config.method]
        return (*OF_TRAINING, "validation.loss_before", *_and_before(figures))
    return ()


def is_of_a_class(config: Any, metric: str) -> bool:
    """Whether a metric may be one of a label."""
    if not isinstance(config, FinetuneConfig) or config.task != "classification":
        return False
    found = re.fullmatch(rf"validation\.(?:{'|'.join(OF_A_CLASS)})\.(.+)", metric)
    return found is not None and (config.labels is None or found[1] in config.labels)


def best_side(metric: str) -> str:
    """``max`` where the name says that the highest is the best, else ``min``."""
    return "max" if BEST_HIGH & set(re.split("[^a-zA-Z0-9]+", metric)) else "min"


def _of_finetuning(config: FinetuneConfig) -> tuple[str, ...]:
    if config.task == "classification":
        scores = tuple(f"validation.{name}" for name in OF_CLASSES)
        return (*OF_TRAINING, *scores, "validation.loss_before", "validation.accuracy_before")
    found: tuple[str, ...] = (*OF_TOKENS, "validation.loss_before")
    if config.scored:
        found += _and_before(OF_LIKENESS)
    if config.forgetting is not None:
        found += ("forgetting.loss", "forgetting.loss_before")
    if config.base_bits:
        found += ("quantised.loss", "quantised.loss_on_whole_base")
    return found


def _and_before(names: tuple[str, ...]) -> tuple[str, ...]:
    return (*(f"validation.{name}" for name in names), *(f"validation.{name}_before" for name in names))
