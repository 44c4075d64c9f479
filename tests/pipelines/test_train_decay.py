"""What weight decay reaches, in every kind of model and with both optimisers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from pipelines.models.build import build_model
from pipelines.models.config import ModelConfig
from pipelines.train.config import TrainConfig
from pipelines.train.optimizer import make_optimizer

SMALL: dict[str, Any] = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 96}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "kv_heads": 1},
    "llama, untied": {**SMALL, "kv_heads": 1, "tie_embeddings": False},
    "gpt2": SMALL,
    "bert": SMALL,
    "t5": SMALL,
    "pipelines.models.recurrent:LSTMModel": {"options": {"hidden": 16}},
    "pipelines.models.convolutional:ConvolutionalModel": {"options": {"hidden": 16, "layers": 2}},
}
MATRICES = re.compile(
    r"_proj\.weight|lm_head\.weight"  # llama
    r"|\.(c_attn|c_proj|c_fc)\.weight"  # gpt2
    r"|\.(query|key|value|dense)\.weight"  # bert
    r"|\.(q|k|v|o|wi|wo)\.weight"  # t5
    r"|lstm\.weight_[ih]h_l\d|\.convolution\.weight"
)
"""By their names; what is left are norms, biases, embeddings and positions, T5's relative ones among them."""


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_matrices_shrink_and_norms_biases_and_embeddings_stay(kind: str, optimizer: str) -> None:
    """Without a gradient nothing but decay moves a parameter."""
    config = ModelConfig(architecture=kind.partition(",")[0], **KINDS[kind])
    torch.manual_seed(0)
    model = build_model(config, vocab_size=64, max_positions=16, bos_id=0, eos_id=1, pad_id=2)
    settings = TrainConfig(learning_rate=0.1, weight_decay=0.5, optimizer=optimizer, workers=1)
    stepping = make_optimizer(model, settings)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepping.step(0.1)
    decayed = [name for name in before if MATRICES.search(name)]
    assert decayed and len(decayed) < len(before)
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if name in decayed else before[name]
        assert torch.allclose(parameter, expected, rtol=1e-6, atol=0), name
        assert torch.equal(parameter, before[name]) == (name not in decayed), name
