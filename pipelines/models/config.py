"""The fields of ``pretrain`` that choose the model: an architecture, a size, every field of it overridable."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel
from pipelines.models.shapes import ARCHITECTURES, DECODERS, FOREIGN_FIELDS, PRESETS, Shape

HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Sizes of an attention head that vLLM has CPU and GPU kernels for."""

Size = Literal["nano", "1m", "15m", "125m", "350m", "1b", "3b", "8b", "70b"]
TITLES = {"llama": "Llama", "gpt2": "GPT-2", "bert": "BERT", "t5": "T5"}
SHAPE_FIELDS = tuple(field.name for field in fields(Shape))


class ModelConfig(StrictModel):
    """The fields of ``pretrain`` that choose the model."""

    architecture: str = Field(
        "llama",
        description="llama (RMSNorm, SwiGLU, rotary positions, grouped-query attention), gpt2 (LayerNorm, GELU, "
        "learned positions), bert (encoder, masked tokens), t5 (encoder-decoder, corrupted spans), or your own "
        "module:Class",
    )
    # Not part of the identity: the shape that it gives is, as `resolve` adds it.
    size: Size = Field(
        "nano", json_schema_extra={"identity": False}, description="preset that the fields below override"
    )
    hidden: int | None = Field(None, ge=32, description="width of the model")
    layers: int | None = Field(None, ge=1, description="number of layers; of t5 in each of the two stacks")
    heads: int | None = Field(None, ge=1, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, description="llama: heads of keys and values; divides heads")
    intermediate: int | None = Field(None, ge=1, description="width inside the feed-forward part")
    rope_theta: float | None = Field(None, gt=0, description="llama: base of the rotary position frequencies")
    norm_epsilon: float | None = Field(None, gt=0, description="what a norm adds before dividing")
    tie_embeddings: bool | None = Field(None, description="share the input and output embedding matrix")
    dropout: float | None = Field(None, ge=0, lt=1, description="share of activations set to 0 in training")
    max_positions: int | None = Field(
        None, ge=8, description="longest context; by default the sequence length of the tokens"
    )
    vocab_multiple: int = Field(
        64,
        ge=1,
        description="the embedding's rows are the tokenizer's tokens rounded up to a multiple of this: tensor "
        "parallelism needs them to divide, and matrix units like it",
    )
    isolate_documents: bool = Field(
        False,
        description="documents packed into one block do not see each other: attention stays within a document and "
        "positions begin anew with it",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of your own module:Class, as plain values"
    )

    @field_validator("architecture")
    @classmethod
    def _check_architecture(cls, value: str) -> str:
        if value not in ARCHITECTURES and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            raise ValueError(f"is none of {', '.join(ARCHITECTURES)}, nor a module:Class of your own")
        return value

    @model_validator(mode="after")
    def _check_fields(self) -> ModelConfig:
        if self.own:
            given = [name for name in ("size", *SHAPE_FIELDS) if name in self.model_fields_set]
            if given:
                raise ValueError(
                    f"{', '.join(given)} shape the architectures {', '.join(ARCHITECTURES)}; give what "
                    f"{self.architecture} takes under options"
                )
            if self.isolate_documents:
                raise ValueError("isolate_documents needs attention to reset: it works with llama, gpt2 and bert")
            return self
        foreign = [name for name in FOREIGN_FIELDS[self.architecture] if getattr(self, name)]
        if foreign:
            raise ValueError(f"{', '.join(foreign)}: {self.architecture} has no such thing; leave it out")
        if self.options:
            raise ValueError(f"options are for a module:Class of your own; {self.architecture} has named fields")
        self._check_shape()
        return self

    def _check_shape(self) -> None:
        shape = self.shape()
        if shape.hidden % shape.heads:
            raise ValueError(
                f"hidden {shape.hidden} is not divisible by heads {shape.heads}: "
                f"set heads: {max(shape.hidden // 64, 1)} (64 a head) or another divisor"
            )
        if self.architecture in DECODERS and shape.head_dim not in HEAD_DIMS:
            fits = [f"heads: {shape.hidden // dim}" for dim in (32, 64, 128) if shape.hidden % dim == 0]
            advice = " or ".join(fits) or "hidden to a multiple of 32 and heads to hidden / 32"
            raise ValueError(
                f"hidden {shape.hidden} / heads {shape.heads} gives heads of {shape.head_dim}, which vLLM cannot "
                f"serve (it serves {', '.join(map(str, HEAD_DIMS))}): set {advice}"
            )
        if shape.heads % shape.kv_heads:
            raise ValueError(
                f"kv_heads {shape.kv_heads} does not divide heads {shape.heads}: set kv_heads: {shape.heads} "
                "or a divisor of it"
            )

    @property
    def own(self) -> bool:
        """Whether the architecture is a class of the user's."""
        return ":" in self.architecture

    @property
    def generative(self) -> bool:
        """Whether the model predicts the next token of a text, so that it can write and be evaluated as a decoder."""
        return self.own or self.architecture in DECODERS

    @property
    def title(self) -> str:
        """The model's name for a person."""
        return self.architecture if self.own else f"{TITLES[self.architecture]} {self.size}"

    def shape(self) -> Shape:
        """The preset with the overrides applied."""
        chosen = asdict(PRESETS[self.architecture][self.size])
        given: dict[str, Any] = {name: getattr(self, name) for name in SHAPE_FIELDS}
        merged = chosen | {name: value for name, value in given.items() if value is not None}
        if self.architecture != "llama":
            merged["kv_heads"] = merged["heads"]
        return Shape(**merged)

    def model_identity(self) -> dict[str, Any]:
        """Identity fields that the preset became; none for a class of the user's."""
        return {} if self.own else asdict(self.shape())

    def embedding_rows(self, vocab_size: int) -> int:
        """The vocabulary of a tokenizer, padded."""
        return -(-vocab_size // self.vocab_multiple) * self.vocab_multiple
