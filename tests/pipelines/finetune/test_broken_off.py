"""Every method, broken off in the middle and continued: the same losses and the same bytes as undisturbed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact
from tests.pipelines.finetune.generation_bench import GenerationBench
from tests.pipelines.one_process import measured

pytestmark = pytest.mark.slow  # tests of the loop alone, method by method, are in test_methods.py

METHODS = [
    pytest.param("llama", {"method": "lora", "dropout": 0.1, "dora": True, "learning_rate": 1e-2}, id="dora"),
    pytest.param("llama", {"method": "lora", "packing": True, "learning_rate": 1e-2}, id="lora, packed"),
    pytest.param("gpt2", {"method": "lora", "rslora": True, "merge": True}, id="rslora, merged"),
    pytest.param("llama", {"method": "ia3"}, id="ia3"),
    pytest.param("llama", {"method": "adapter"}, id="adapter"),
    pytest.param("llama", {"method": "prompt", "virtual_tokens": 3}, id="prompt"),
    pytest.param("llama", {"method": "prefix", "virtual_tokens": 3, "encoder_hidden": 8}, id="prefix"),
    pytest.param("gpt2", {"method": "p-tuning", "virtual_tokens": 3}, id="p-tuning"),
    pytest.param("gpt2", {"method": "full", "learning_rate": 1e-3}, id="full"),
    pytest.param(
        "llama",
        {"method": "full", "l2_sp": 0.1, "layer_decay": 0.8, "unfreeze_every_steps": 3, "learning_rate": 1e-2},
        id="full, shaped",
    ),
]


@pytest.mark.parametrize(("base", "settings"), METHODS)
def test_a_run_that_is_broken_off_ends_with_the_same_bytes(
    base: str,
    settings: dict[str, Any],
    bases: dict[str, Path],
    tmp_path: Path,
    publish_model: Callable[..., Artifact],
) -> None:
    whole, cut = (GenerationBench(tmp_path / name, bases[base], publish_model) for name in ("whole", "cut"))
    summary = whole.run(whole.task(steps=6, **settings))
    with pytest.raises(KeyboardInterrupt):
        cut.run(cut.task(steps=6, **settings), stop_at=6)
    again = cut.run(cut.task(steps=6, **settings))
    assert again["resumed_at"] == 4
    assert measured(again) == measured(summary)
    assert len({each["loss"] for each in measured(summary)}) > 4
    assert cut.written() == whole.written() != {}
    assert again["details"] == summary["details"]
