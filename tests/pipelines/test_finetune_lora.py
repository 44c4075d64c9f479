from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.store_local import LocalStore
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.lora import add_adapters, export_adapter, load_base
from pipelines.finetune.masking import EncodedPair, PairSamples
from pipelines.models.export import export_model
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.keeper import Keeper
from pipelines.train.loop import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "tokenizer").mkdir()
    write_folder(learn_bpe(["words"] * 3, 300, 2), folder / "tokenizer")
    torch.manual_seed(0)
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=96)
    model = build_llama(shape, vocab_size=300, max_positions=32, bos_id=0, eos_id=1, pad_id=2)
    export_model(model, folder / "tokenizer", folder / "model", torch.randint(0, 300, (1, 8)))
    return folder / "model"


def test_only_adapters_move_and_the_written_adapter_loads_in_peft(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    config = FinetuneConfig(rank=4, batch_sequences=4, learning_rate=1e-2, workers=1)
    torch.manual_seed(config.seed)
    model = add_adapters(load_base(base), config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pairs = PairSamples([EncodedPair([0, 5 + n, 6], [7 + n, 8, 9]) for n in range(12)], 2)
    keeper = Keeper(LocalStore(tmp_path / "store"), "checkpoints", (), Group(), None, 2)
    train(model, pairs, pairs, 6, config, Group(), keeper, "finetune")
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert len(moved) == 2 * 2 * 7  # two layers, seven matrices, A and B

    probe = pairs.batch(np.array([0, 1])).inputs
    tmp_path = tmp_path / "adapter"
    assert export_adapter(model, base, "Model/pretrain-abc", tmp_path, probe) <= 1e-4
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "Model/pretrain-abc"
    assert settings["r"] == 4
    assert str(base) not in "".join(path.read_text(errors="replace") for path in tmp_path.iterdir())
    plain = load_base(base)
    with torch.no_grad():
        original = plain(probe).logits
        adapted = PeftModel.from_pretrained(plain, tmp_path).eval()(probe).logits
        assert torch.allclose(adapted, model.eval()(probe).logits, atol=1e-4)
        assert not torch.allclose(adapted, original, atol=1e-2)
        with model.disable_adapter():
            assert torch.allclose(model(probe).logits, original, atol=1e-5)


def test_an_untrained_adapter_changes_nothing(base: Path) -> None:
    probe = torch.randint(0, 300, (1, 8))
    with torch.no_grad():
        original = load_base(base)(probe).logits
        assert torch.equal(add_adapters(load_base(base), FinetuneConfig())(probe).logits, original)


def test_finetuning_has_defaults_of_its_own() -> None:
    assert FinetuneConfig().weight_decay == 0.0
    assert TrainConfig().weight_decay == 0.1
    assert FinetuneConfig(target_modules=("v_proj", "q_proj")).target_modules == ("q_proj", "v_proj")
