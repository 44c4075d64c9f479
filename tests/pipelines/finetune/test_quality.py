"""On a real pretrained model: methods learn a new style, what they forget is measured, and L2-SP makes it less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.finetuning_methods import METHODS, Figures, measure, write_data

pytestmark = [pytest.mark.anchor, pytest.mark.slow]

STEPS = 30


@pytest.fixture(scope="module")
def learned(anchors: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Figures]:
    """Fine-tunes the model of stories on plays, once for each kind of settings."""
    import torch

    torch.set_num_threads(1)
    model = anchors / "models" / "stories260K-hd32"
    plays = anchors / "corpora" / "tinyshakespeare" / "input.txt"
    new, own = write_data(model, plays, tmp_path_factory.mktemp("data"))
    made: dict[str, Figures] = {}

    def run(**settings: Any) -> Figures:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = measure(model, new, own, STEPS, settings)
        return made[key]

    return run


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_new_style_is_learned_and_forgetting_is_measured(name: str, learned: Callable[..., Figures]) -> None:
    found = learned(**METHODS[name])
    assert found.gained >= 0.2
    assert found.own_before < 2.0  # its own stories: it predicts them well
    assert found.forgotten > 0.0


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "ia3"])
def test_the_merged_model_is_the_adapter_on_its_base(name: str, anchors: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines.finetune.export import merge_folders

    model = anchors / "models" / "stories260K-hd32"
    plays = anchors / "corpora" / "tinyshakespeare" / "input.txt"
    new, own = write_data(model, plays, tmp_path)
    measure(model, new, own, 10, METHODS[name], tmp_path / "adapter")
    assert merge_folders(tmp_path / "adapter", model, tmp_path / "merged") <= 1e-4
    ids = AutoTokenizer.from_pretrained(model)(plays.read_text()[:1000], return_tensors="pt").input_ids[:, :256]
    base = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        untrained = base.eval()(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
    assert float((merged - adapted).abs().max()) <= 1e-4 < 1e-2 < float((adapted - untrained).abs().max())


def test_l2_sp_forgets_less(learned: Callable[..., Figures]) -> None:
    without = learned(**METHODS["full"])
    pulled = learned(**METHODS["full"], l2_sp=0.1)
    assert pulled.forgotten < without.forgotten - 0.05
    assert pulled.gained >= 0.2
