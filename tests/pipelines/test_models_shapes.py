"""Sizes and shapes against what the models' publishers say, and against transformers' own modules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config import parse_document, validate
from cluster.errors import UserError
from pipelines.models.build import build_model
from pipelines.models.config import ModelConfig
from pipelines.models.shapes import ARCHITECTURES, PRESETS, Shape

SIZES = ("nano", "1m", "15m", "125m", "350m", "1b", "3b", "8b", "70b")


def model_config(text: str) -> ModelConfig:
    return validate(ModelConfig, parse_document(text, "recipe.yaml"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_of_every_preset_are_those_of_transformers_model(architecture: str) -> None:
    assert tuple(PRESETS[architecture]) == SIZES
    counted = {}
    for size in SIZES:
        config = ModelConfig(architecture=architecture, size=size)  # type: ignore[arg-type]
        with torch.device("meta"):
            model: Any = build_model(config, vocab_size=1000, max_positions=96, bos_id=0, eos_id=1, pad_id=2)
        counted[size] = sum(parameter.numel() for parameter in model.parameters())
        assert counted[size] == config.shape().parameters(1024, architecture, 96)
        assert model.get_input_embeddings().weight.shape[0] == 1024  # 1,000 tokens, padded to a multiple of 64
    assert sorted(counted.values()) == list(counted.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_size_means_what_it_says(architecture: str) -> None:
    """With 32,000 tokens every size from 15m on is within 35 % of its name; smaller ones are mostly embeddings."""
    for size, meant in {
        "15m": 15e6,
        "125m": 125e6,
        "350m": 350e6,
        "1b": 1e9,
        "3b": 3e9,
        "8b": 8e9,
        "70b": 70e9,
    }.items():
        assert PRESETS[architecture][size].parameters(32_000, architecture, 1024) == pytest.approx(meant, rel=0.35)


# Published counts: the number of parameters that the models' pages on the Hugging Face hub give for their safetensors.
LLAMA_3 = 128_256


@pytest.mark.parametrize(
    ("architecture", "shape", "vocab_size", "positions", "published"),
    [
        ("llama", PRESETS["llama"]["1b"], LLAMA_3, 0, 1_235_814_400),  # Llama-3.2-1B
        ("llama", PRESETS["llama"]["3b"], LLAMA_3, 0, 3_212_749_824),  # Llama-3.2-3B
        ("llama", PRESETS["llama"]["8b"], LLAMA_3, 0, 8_030_261_248),  # Llama-3.1-8B
        ("llama", PRESETS["llama"]["70b"], LLAMA_3, 0, 70_553_706_496),  # Llama-3.1-70B
        ("gpt2", PRESETS["gpt2"]["125m"], 50_257, 1024, 124_439_808),  # GPT-2 small
        ("gpt2", PRESETS["gpt2"]["350m"], 50_257, 1024, 354_823_168),  # GPT-2 medium
        ("bert", PRESETS["bert"]["125m"], 30_522, 512, 109_514_298),  # BertForMaskedLM of bert-base-uncased
        ("t5", Shape(512, 6, 8, 8, 2048), 32_128, 0, 60_506_624),  # t5-small
        ("t5", Shape(768, 12, 12, 12, 3072), 32_128, 0, 222_903_552),  # t5-base
    ],
)
def test_published_models_have_the_published_number_of_parameters(
    architecture: str, shape: Shape, vocab_size: int, positions: int, published: int
) -> None:
    assert shape.parameters(vocab_size, architecture, positions) == published


def test_the_guides_table_of_sizes_is_the_formulas() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for architecture in ARCHITECTURES:
        row = next(line for line in guide.splitlines() if re.match(rf"\| {architecture} \| [0-9]", line))
        counted = [shape.parameters(32_000, architecture, 1024) / 1e6 for shape in PRESETS[architecture].values()]
        assert row.strip("| ").split(" | ")[1:] == [f"{count:,.1f}" for count in counted]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture: lama", "none of llama, gpt2, bert, t5"),
        ("architecture: gpt2\nkv_heads: 2", "kv_heads: gpt2 has no such thing"),
        ("architecture: t5\nmax_positions: 64", "max_positions: t5 has no such thing"),
        ("architecture: t5\nisolate_documents: true", "isolate_documents: t5 has no such thing"),
        ("architecture: gpt2\nhidden: 100\nheads: 3", "not divisible by heads 3"),
        ("architecture: gpt2\nhidden: 192\nheads: 8", "heads of 24, which vLLM cannot serve"),
        ("options: {hidden: 3}", "options are for a module:Class"),
        ("architecture: my.models:Mine\nhidden: 64", "hidden shape the architectures"),
        ("architecture: my.models:Mine\nisolate_documents: true", "needs attention to reset"),
    ],
)
def test_mistakes_name_their_fix(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_config(text)


def test_every_field_can_be_overridden() -> None:
    shape = model_config(
        "size: 1b\nhidden: 256\nlayers: 3\nheads: 8\nkv_heads: 2\nintermediate: 500\nrope_theta: 1e5\n"
        "norm_epsilon: 1e-6\ntie_embeddings: false\ndropout: 0.1"
    ).shape()
    assert shape == Shape(256, 3, 8, 2, 500, 1e5, 1e-6, False, 0.1)
    narrow = model_config("architecture: bert\nsize: nano\nheads: 8")  # no engine serves an encoder's heads of 16
    assert narrow.shape().kv_heads == 8


@pytest.mark.parametrize(("multiple", "rows"), [(1, 1001), (8, 1008), (128, 1024), (1001, 1001)])
def test_the_vocabulary_is_padded_for_tensor_parallelism(multiple: int, rows: int) -> None:
    assert ModelConfig(vocab_multiple=multiple).embedding_rows(1001) == rows


def test_dropout_reaches_the_model() -> None:
    for architecture in ARCHITECTURES:
        config = ModelConfig(architecture=architecture, dropout=0.25)
        with torch.device("meta"):
            model = build_model(config, vocab_size=64, max_positions=16, bos_id=0, eos_id=1, pad_id=2)
        modules = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        assert set(modules) <= {0.25}
        assert modules or model.model.layers[0].self_attn.attention_dropout == 0.25


def test_the_token_that_ends_documents_is_learned_although_it_also_pads() -> None:
    for architecture in ("llama", "gpt2", "bert"):
        model = build_model(
            ModelConfig(architecture=architecture), vocab_size=64, max_positions=8, bos_id=1, eos_id=1, pad_id=1
        )
        loss = model(input_ids=torch.tensor([[5, 1, 6, 7]])).logits[..., 9].sum()
        loss.backward()
        assert model.get_input_embeddings().weight.grad[1].abs().sum() > 0
