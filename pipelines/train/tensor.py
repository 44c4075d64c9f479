"""Tensor parallelism (Megatron-LM, arXiv:1909.08053) of a Llama by DTensor: each worker has some heads and columns."""

from __future__ import annotations

from typing import Any

from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from pipelines.train.anatomy import blocks

LAYER_PLAN = {
    "self_attn.q_proj": ColwiseParallel,
    "self_attn.k_proj": ColwiseParallel,
    "self_attn.v_proj": ColwiseParallel,
    "self_attn.o_proj": RowwiseParallel,
    "mlp.gate_proj": ColwiseParallel,
    "mlp.up_proj": ColwiseParallel,
    "mlp.down_proj": RowwiseParallel,
}


def split_tensors(model: Any, mesh: Any) -> None:
    """Split a Llama's matrices in place, the embedding and the output by vocabulary; norms stay whole everywhere.

    Parts that a pipeline stage does not have (embedding, output) are passed over.
    """
    core = model.model
    for layer in blocks(core):
        parallelize_module(layer, mesh, {name: style() for name, style in LAYER_PLAN.items()})
    embedding, head = getattr(core, "embed_tokens", None), getattr(model, "lm_head", None)
    tied = embedding is not None and head is not None and embedding.weight is head.weight
    if embedding is not None:
        parallelize_module(core, mesh, {"embed_tokens": RowwiseParallel(input_layouts=Replicate())})
    if head is not None:
        parallelize_module(model, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})
    if tied and head is not None and embedding is not None:
        head.weight = embedding.weight
