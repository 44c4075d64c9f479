"""A classical baseline: an LSTM language model (Zaremba et al., arXiv:1409.2329) with tied embeddings."""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput


class LSTMModel(nn.Module):
    """``architecture: pipelines.models.recurrent:LSTMModel``.

    Args:
        max_positions: not needed: the state carries over any length.
        hidden: width of embeddings and state.
        layers: LSTM layers, one on the other.
        dropout: share of activations set to 0 between layers in training.
    """

    def __init__(
        self, *, vocab_size: int, max_positions: int, hidden: int = 256, layers: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.output = nn.Linear(hidden, vocab_size)
        self.output.weight = self.embedding.weight  # arXiv:1608.05859

    def forward(self, input_ids: torch.Tensor, **_further: object) -> CausalLMOutput:
        """Token ids [n, length] to logits [n, length, vocab_size]; the state begins at 0 with each row."""
        states, _ = self.lstm(self.dropout(self.embedding(input_ids)))
        return CausalLMOutput(logits=self.output(self.dropout(states)))
