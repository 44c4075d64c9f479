"""The shape of a model: a preset chosen by ``size``, every field of it overridable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel

HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Sizes of an attention head that vLLM has CPU and GPU kernels for."""

Size = Literal["nano", "1m", "15m", "125m"]


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer's dimensions.

    Attributes:
        hidden: width of the residual stream.
        kv_heads: heads of keys and values, shared by groups of query heads (GQA, arXiv:2305.13245).
        intermediate: width inside the feed-forward part (SwiGLU, arXiv:2002.05202).
        rope_theta: base of the rotary position frequencies (arXiv:2104.09864).
        tie_embeddings: whether output and input share one matrix.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    tie_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    def parameters(self, vocab_size: int) -> int:
        """Number of parameters of a Llama of this shape."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * self.head_dim
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = vocab_size * self.hidden * (1 if self.tie_embeddings else 2)
        return embeddings + self.layers * layer + self.hidden


PRESETS: dict[str, Shape] = {
    "nano": Shape(hidden=128, layers=4, heads=4, kv_heads=2, intermediate=352),
    "1m": Shape(hidden=128, layers=6, heads=4, kv_heads=4, intermediate=384),
    "15m": Shape(hidden=288, layers=6, heads=9, kv_heads=9, intermediate=768),
    "125m": Shape(hidden=768, layers=12, heads=12, kv_heads=12, intermediate=2048),
}


class ModelConfig(StrictModel):
    """The fields of ``pretrain`` that choose the model."""

    architecture: Literal["llama"] = Field(
        "llama", description="Llama: RMSNorm, SwiGLU, rotary positions, grouped-query attention"
    )
    # Not part of the identity: the shape that it gives is, as `resolve` adds it.
    size: Size = Field(
        "nano", json_schema_extra={"identity": False}, description="preset that the fields below override"
    )
    hidden: int | None = Field(None, ge=32, description="width of the model")
    layers: int | None = Field(None, ge=1, description="number of layers")
    heads: int | None = Field(None, ge=1, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, description="heads of keys and values; divides heads")
    intermediate: int | None = Field(None, ge=1, description="width inside the feed-forward part")
    rope_theta: float | None = Field(None, gt=0, description="base of the rotary position frequencies")
    norm_epsilon: float | None = Field(None, gt=0, description="what RMSNorm adds before dividing")
    tie_embeddings: bool | None = Field(None, description="share the input and output embedding matrix")
    max_positions: int | None = Field(
        None, ge=8, description="longest context; by default the sequence length of the tokens"
    )

    @model_validator(mode="after")
    def _check_shape(self) -> ModelConfig:
        shape = self.shape()
        if shape.hidden % shape.heads:
            raise ValueError(
                f"hidden {shape.hidden} is not divisible by heads {shape.heads}: "
                f"set heads: {max(shape.hidden // 64, 1)} (64 a head) or another divisor"
            )
        if shape.head_dim not in HEAD_DIMS:
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
        return self

    def shape(self) -> Shape:
        """The preset with the overrides applied."""
        preset = asdict(PRESETS[self.size])
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Shape)}
        return Shape(**(preset | {name: value for name, value in given.items() if value is not None}))
