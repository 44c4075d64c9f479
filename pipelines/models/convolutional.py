"""A classical baseline: a gated convolutional language model (Dauphin et al., arXiv:1612.08083)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import CausalLMOutput


class GatedConvolution(nn.Module):
    """A residual block: norm, convolution over a position and those before it, gated linear unit."""

    def __init__(self, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.kernel = kernel
        self.norm = nn.LayerNorm(hidden)
        self.convolution = nn.Conv1d(hidden, 2 * hidden, kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [n, length, hidden] to the same shape."""
        inputs = functional.pad(self.norm(states).transpose(1, 2), (self.kernel - 1, 0))
        gated: torch.Tensor = functional.glu(self.convolution(inputs), dim=1)
        return states + self.dropout(gated.transpose(1, 2))


class ConvolutionalModel(nn.Module):
    """``architecture: pipelines.models.convolutional:ConvolutionalModel``.

    A position sees ``layers * (kernel - 1)`` tokens before it.

    Args:
        max_positions: not needed: convolutions know no positions.
        hidden: width of embeddings and blocks.
        layers: blocks.
        kernel: positions that one convolution reads.
        dropout: share of a block's activations set to 0 in training.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_positions: int,
        hidden: int = 256,
        layers: int = 6,
        kernel: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
        self.blocks = nn.ModuleList(GatedConvolution(hidden, kernel, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, vocab_size)
        self.output.weight = self.embedding.weight  # arXiv:1608.05859

    def forward(self, input_ids: torch.Tensor, **_further: object) -> CausalLMOutput:
        """Token ids [n, length] to logits [n, length, vocab_size]."""
        states = self.embedding(input_ids)
        for block in self.blocks:
            states = block(states)
        return CausalLMOutput(logits=self.output(self.norm(states)))
