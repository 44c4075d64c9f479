"""Recipe sections ``tokenizer`` and ``tokens``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel, execution
from cluster.stage import Stage

LEARNED_ONLY = ("algorithm", "vocab_size", "min_frequency", "max_training_bytes")


class TokenizerConfig(StrictModel):
    """Recipe section ``tokenizer``: a vocabulary learned from the training split, or an existing tokenizer."""

    source: str | None = execution(
        None,
        description="an existing Hugging Face tokenizer instead of a learned one: a folder, an artifact's id "
        "(Tokenizer/… or Model/…), or hf://organisation/name@revision",
    )
    algorithm: Literal["bpe", "unigram"] = Field(
        "bpe", description="how the vocabulary is learned: byte-level BPE, or a byte-level unigram model"
    )
    vocab_size: int = Field(
        8192, ge=300, le=1 << 20, description="tokens in the vocabulary, the 256 bytes and the special ones included"
    )
    min_frequency: int = Field(2, ge=1, description="bpe: times a pair must occur in the corpus to be merged")
    max_training_bytes: int = Field(
        1 << 30, ge=1, description="text to learn from; of a larger corpus, documents chosen by a stable hash"
    )
    mask_token: bool = Field(False, description="have a mask token, which pretrain.architecture: bert needs")
    sentinels: int = Field(
        0,
        ge=0,
        le=1000,
        description="sentinel tokens, which pretrain.architecture: t5 needs: one for every 20 tokens of a block",
    )
    special_tokens: list[str] = Field(
        default_factory=list, description="special tokens of your own, never cut and never made from a document's text"
    )
    chat_template: str | None = Field(
        None, description="Jinja template of conversations, instead of the built-in or the existing tokenizer's own"
    )

    @model_validator(mode="after")
    def _check(self) -> TokenizerConfig:
        given = [name for name in LEARNED_ONLY if self.source is not None and name in self.model_fields_set]
        if given:
            raise ValueError(f"{', '.join(given)} choose how a vocabulary is learned; with source: leave them out")
        if len(set(self.special_tokens)) < len(self.special_tokens) or not all(self.special_tokens):
            raise ValueError("special_tokens must be different and not empty")
        if self.source is None and self.vocab_size < 272 + self.sentinels + len(self.special_tokens):
            raise ValueError(
                f"vocab_size {self.vocab_size} has no room for 256 bytes, {self.sentinels} sentinels and the special "
                f"tokens: raise it"
            )
        return self


def resolve_tokenizer(config: TokenizerConfig) -> dict[str, Any]:
    """What the source is: its content where it is a folder."""
    if config.source is None:
        return {}
    from pipelines.tokens.existing import source_identity

    return {"source": source_identity(config.source)}


class TokensConfig(StrictModel):
    """Recipe section ``tokens``: encoding and packing into blocks of one length."""

    sequence_length: int = Field(512, ge=8, le=1 << 20, description="tokens a model sees at once")
    workers: int | None = execution(
        None,
        ge=1,
        description="parallel workers; by default one for each core that Ray really has",
    )


TOKENIZER_STAGE = Stage(
    "tokenizer",
    "Tokenizer",
    1,
    "pipelines.tokens.tokenizer_stage:make_tokenizer",
    resolve="pipelines.tokens.config:resolve_tokenizer",
)
TOKENS_STAGE = Stage("tokens", "Tokens", 1, "pipelines.tokens.stage:encode")
