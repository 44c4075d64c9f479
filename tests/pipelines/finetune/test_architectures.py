"""Causal models of other families than Raymill's own: adapted, trained, written and merged all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.store_local import LocalStore
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.encode import Encoded
from pipelines.finetune.examples.samples import ExampleSamples
from pipelines.finetune.export import export_adapter, merge_folders
from pipelines.finetune.methods import adapt, load_base
from pipelines.models.export import export_model
from pipelines.train.batches import evaluate
from pipelines.train.group import Group
from pipelines.train.keeper import Keeper
from pipelines.train.loop import train
from pipelines.train.parallel import arrange
from pipelines.train.shaping import depths_of

WIDTH: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 16},
    "phi3": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 2, "n_layer": 2},
    "falcon": {},
    "mamba": {"state_size": 4},
}
SAMPLES = ExampleSamples([Encoded((0, 5 + n, 6, 7 + n, 8, 9), (False,) * 3 + (True,) * 3) for n in range(8)], 2)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    made = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(request.param, **WIDTH | FAMILIES[request.param])
    model = AutoModelForCausalLM.from_config(config)
    export_model(model, bases["llama"], made, torch.randint(3, 300, (1, 8)))
    return made


@pytest.mark.slow  # each is quick; together they are not
@pytest.mark.parametrize("method", ["lora", "adapter", "full"])
def test_every_family_is_trained_and_written(method: str, folder: Path, tmp_path: Path) -> None:
    shaping: dict[str, Any] = {"layer_decay": 0.8, "l2_sp": 0.1} if method == "full" else {}
    config = FinetuneConfig(method=method, batch_sequences=4, learning_rate=1e-2, workers=1, **shaping)
    model = adapt(load_base(folder), config, folder)
    if method == "full":
        assert set(depths_of(model).values()) == {0, 1, 2, 3}  # two layers were found
    keeper = Keeper(LocalStore(tmp_path / "store"), "checkpoints", (), Group(), None, 2)
    start = evaluate(arrange(model, config, Group()), SAMPLES, np.arange(len(SAMPLES)), config).loss
    finished, run = train(model, SAMPLES, SAMPLES, 4, config, Group(), keeper, "finetune")
    assert run.runner.parameters
    assert finished.validation_loss < start - 0.01
    probe = SAMPLES.batch(np.array([0, 1])).inputs
    if method == "full":
        assert export_model(model, folder, tmp_path / "out", probe) <= 1e-4
        return
    assert export_adapter(model, folder, "Model/x", tmp_path / "out", probe) <= 1e-4
    if method == "lora":
        assert merge_folders(tmp_path / "out", folder, tmp_path / "merged") <= 1e-4
