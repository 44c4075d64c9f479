"""Activation checkpointing (arXiv:1604.06174): memory saved by computing a layer's inside again for its gradient."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from pipelines.train.anatomy import blocks

Recompute = Literal["none", "selective", "full"]

_aten = torch.ops.aten
KEPT = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What ``selective`` keeps: results that cost a matrix product. Norms, activations and rotations are computed again
(selective recomputation as in arXiv:2205.05198)."""


def save_memory(model: nn.Module, how: Recompute) -> None:
    """Make every layer recompute; names of modules and parameters stay as they are."""
    if how == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT)
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, **settings)
