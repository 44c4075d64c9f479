"""Build a T5 of a given shape (arXiv:1910.10683): ReLU, relative positions, one matrix for all embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

if TYPE_CHECKING:
    from pipelines.models.shapes import Shape


def build_t5(
    shape: Shape, *, vocab_size: int, bos_id: int | None, eos_id: int, pad_id: int
) -> T5ForConditionalGeneration:
    """A T5 with fresh weights, initialised as in the paper's code. Its decoder begins with ``pad``."""
    config = T5Config(
        vocab_size=vocab_size,
        d_model=shape.hidden,
        d_kv=shape.head_dim,
        d_ff=shape.intermediate,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        num_heads=shape.heads,
        dropout_rate=shape.dropout,
        layer_norm_epsilon=shape.norm_epsilon,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        decoder_start_token_id=pad_id,
        dtype="float32",
    )
    return T5ForConditionalGeneration(config)
