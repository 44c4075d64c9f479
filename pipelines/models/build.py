"""From a recipe's choice of model to a model with fresh weights."""

from __future__ import annotations

from typing import Any

from pipelines.models.config import ModelConfig


def build_model(
    config: ModelConfig, *, vocab_size: int, max_positions: int, bos_id: int | None, eos_id: int, pad_id: int
) -> Any:
    """A model of the configured architecture and shape; weights are drawn from torch's generator as it stands.

    Args:
        vocab_size: the tokenizer's; the model's embedding is padded to ``vocab_multiple``.
        pad_id: where the tokenizer has no token for it the end of a document; an embedding of its own is then kept.
    """
    rows = config.embedding_rows(vocab_size)
    if config.own:
        from pipelines.models.own import build_own

        return build_own(config.architecture, config.options, vocab_size=rows, max_positions=max_positions)
    shape = config.shape()
    if config.architecture == "t5":
        from pipelines.models.t5 import build_t5

        return build_t5(shape, vocab_size=rows, bos_id=bos_id, eos_id=eos_id, pad_id=pad_id)
    settings: dict[str, Any] = {"vocab_size": rows, "max_positions": max_positions, "bos_id": bos_id, "eos_id": eos_id}
    # A padding token's embedding is 0 and never learned: that must not happen to one that ends documents.
    settings["pad_id"] = None if pad_id in (bos_id, eos_id) else pad_id
    if config.architecture == "gpt2":
        from pipelines.models.gpt2 import build_gpt2

        return build_gpt2(shape, **settings)
    if config.architecture == "bert":
        from pipelines.models.bert import build_bert

        return build_bert(shape, **settings)
    from pipelines.models.llama import build_llama

    return build_llama(shape, **settings)
