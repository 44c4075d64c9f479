"""The shapes of models: one size dial, and how many parameters each shape has.

The four architectures share one record. What a field means in each, and which field one lacks, stands in FIELDS.
"""

from __future__ import annotations

from dataclasses import dataclass

DECODERS = ("llama", "gpt2")
"""Architectures that predict the next token, and that vLLM and lm-eval run."""

ARCHITECTURES = (*DECODERS, "bert", "t5")


@dataclass(frozen=True)
class Shape:
    """A transformer's dimensions.

    Attributes:
        hidden: width of the residual stream.
        layers: blocks; of an encoder-decoder in each of its two stacks.
        kv_heads: heads of keys and values, shared by groups of query heads (GQA, arXiv:2305.13245); Llama only.
        intermediate: width inside the feed-forward part.
        rope_theta: base of the rotary position frequencies (arXiv:2104.09864); Llama only.
        norm_epsilon: what a norm adds before dividing.
        tie_embeddings: whether output and input share one matrix.
        dropout: share of activations set to 0 in training.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    tie_embeddings: bool = True
    dropout: float = 0.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    def parameters(self, vocab_size: int, architecture: str = "llama", max_positions: int = 0) -> int:
        """Number of parameters of a model of this shape.

        Args:
            vocab_size: rows of the embedding matrix.
            max_positions: rows of the learned positions, where the architecture has them.
        """
        width, layers, inner = self.hidden, self.layers, self.intermediate
        embeddings = vocab_size * width * (1 if self.tie_embeddings else 2)
        square, norm = width * width, 2 * width
        if architecture == "llama":  # no biases, RMSNorm has a weight only
            attention = 2 * square + 2 * width * self.kv_heads * self.head_dim
            return embeddings + layers * (attention + 3 * width * inner + 2 * width) + width
        feed_forward = 2 * width * inner
        if architecture == "t5":  # no biases; the first layer of each stack holds 32 relative positions a head
            encoder = 4 * square + feed_forward + 2 * width
            decoder = 8 * square + feed_forward + 3 * width
            return embeddings + layers * (encoder + decoder) + 2 * 32 * self.heads + 2 * width
        layer = 4 * (square + width) + feed_forward + inner + width + 2 * norm
        total = embeddings + max_positions * width + layers * layer + norm
        if architecture == "bert":  # two kinds of segments; a head of a dense layer, a norm and a bias for each token
            total += 2 * width + square + width + norm + vocab_size
        return total


def _wide(hidden: int, layers: int, heads: int, epsilon: float = 1e-5) -> Shape:
    """The classical proportions: full attention, and a feed-forward part four times as wide."""
    return Shape(hidden, layers, heads, heads, 4 * hidden, norm_epsilon=epsilon)


_LLAMA = {
    "nano": Shape(hidden=128, layers=4, heads=4, kv_heads=2, intermediate=352),
    "1m": Shape(hidden=128, layers=6, heads=4, kv_heads=4, intermediate=384),
    "15m": Shape(hidden=288, layers=6, heads=9, kv_heads=9, intermediate=768),
    "125m": Shape(hidden=768, layers=12, heads=12, kv_heads=12, intermediate=2048),
    "350m": Shape(hidden=1024, layers=24, heads=16, kv_heads=16, intermediate=2816),
    # From here the shapes of Llama 3.2 and 3.1 (arXiv:2407.21783 and the models' own configurations).
    "1b": Shape(hidden=2048, layers=16, heads=32, kv_heads=8, intermediate=8192, rope_theta=500_000.0),
    "3b": Shape(hidden=3072, layers=28, heads=24, kv_heads=8, intermediate=8192, rope_theta=500_000.0),
    "8b": Shape(4096, 32, 32, 8, 14336, rope_theta=500_000.0, tie_embeddings=False),
    "70b": Shape(8192, 80, 64, 8, 28672, rope_theta=500_000.0, tie_embeddings=False),
}

_WIDTHS = {
    "nano": (128, 4, 4),
    "1m": (128, 6, 4),
    "15m": (288, 6, 9),
    "125m": (768, 12, 12),  # GPT-2 small, BERT base
    "350m": (1024, 24, 16),  # GPT-2 medium, BERT large
    "1b": (2048, 24, 16),
    "3b": (2560, 32, 32),
    "8b": (4096, 36, 32),
    "70b": (8192, 86, 64),
}

_T5_WIDTHS = {
    "nano": (128, 2, 4),
    "1m": (128, 3, 4),
    "15m": (256, 6, 8),
    "125m": (640, 10, 10),
    "350m": (896, 14, 14),
    "1b": (1280, 20, 20),
    "3b": (2048, 24, 32),
    "8b": (3072, 28, 48),
    "70b": (8192, 37, 64),
}

PRESETS: dict[str, dict[str, Shape]] = {
    "llama": _LLAMA,
    "gpt2": {size: _wide(*widths) for size, widths in _WIDTHS.items()},
    "bert": {size: _wide(*widths, epsilon=1e-12) for size, widths in _WIDTHS.items()},
    "t5": {size: _wide(*widths, epsilon=1e-6) for size, widths in _T5_WIDTHS.items()},
}
"""Architecture -> size -> shape. A size's name is about the parameters with a vocabulary of 32,000."""

FOREIGN_FIELDS: dict[str, tuple[str, ...]] = {
    "llama": (),
    "gpt2": ("kv_heads", "rope_theta"),
    "bert": ("kv_heads", "rope_theta"),
    "t5": ("kv_heads", "rope_theta", "tie_embeddings", "max_positions", "isolate_documents"),
}
"""Fields that an architecture has no use for."""
