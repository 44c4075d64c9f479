"""Build a Llama of a given shape in transformers' own class, so that every consumer loads it unmodified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

if TYPE_CHECKING:
    from pipelines.models.shapes import Shape


def build_llama(
    shape: Shape, *, vocab_size: int, max_positions: int, bos_id: int | None, eos_id: int, pad_id: int | None
) -> LlamaForCausalLM:
    """A Llama with fresh weights: normal with deviation 0.02, drawn from torch's generator as it stands."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=shape.norm_epsilon,
        attention_dropout=shape.dropout,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)
