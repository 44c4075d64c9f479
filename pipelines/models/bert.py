"""Build a BERT of a given shape (arXiv:1810.04805) with its masked-language-modelling head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertForMaskedLM

if TYPE_CHECKING:
    from pipelines.models.shapes import Shape


def build_bert(
    shape: Shape, *, vocab_size: int, max_positions: int, bos_id: int | None, eos_id: int, pad_id: int | None
) -> BertForMaskedLM:
    """A BERT with fresh weights: normal with deviation 0.02. It has no head for pairs of sentences."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        max_position_embeddings=max_positions,
        layer_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        dtype="float32",
    )
    return BertForMaskedLM(config)
