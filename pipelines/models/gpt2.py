"""Build a GPT-2 of a given shape (Radford et al. 2019) in transformers' own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

if TYPE_CHECKING:
    from pipelines.models.shapes import Shape


def build_gpt2(
    shape: Shape, *, vocab_size: int, max_positions: int, bos_id: int | None, eos_id: int, pad_id: int | None
) -> GPT2LMHeadModel:
    """A GPT-2 with fresh weights: deviation 0.02, less on the way into the residual stream, as in the paper."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_positions,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.intermediate,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        activation_function="gelu_pytorch_tanh",  # gelu_new's function in one kernel, which eager training notices
        layer_norm_epsilon=shape.norm_epsilon,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        dtype="float32",
    )
    return GPT2LMHeadModel(config)
