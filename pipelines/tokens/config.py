"""Recipe sections ``tokenizer`` and ``tokens``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.config import StrictModel, execution
from cluster.stage import Stage


class TokenizerConfig(StrictModel):
    """Recipe section ``tokenizer``: a byte-level BPE vocabulary learned from the training split."""

    algorithm: Literal["bpe"] = Field("bpe", description="how the vocabulary is learned: byte-level BPE")
    vocab_size: int = Field(
        8192, ge=300, le=1 << 20, description="tokens in the vocabulary, the 256 bytes and the special ones included"
    )
    min_frequency: int = Field(2, ge=1, description="times a pair must occur in the corpus to be merged")
    max_training_bytes: int = Field(
        1 << 30, ge=1, description="text to learn from; of a larger corpus, documents chosen by a stable hash"
    )


class TokensConfig(StrictModel):
    """Recipe section ``tokens``: encoding and packing into blocks of one length."""

    sequence_length: int = Field(512, ge=8, le=1 << 20, description="tokens a model sees at once")
    workers: int | None = execution(
        None, ge=1, description="Ray tasks that encode at the same time; by default as many as there are CPUs"
    )


TOKENIZER_STAGE = Stage("tokenizer", "Tokenizer", 1, "pipelines.tokens.stage:train_tokenizer")
TOKENS_STAGE = Stage("tokens", "Tokens", 1, "pipelines.tokens.stage:encode")
