from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Architecture -> the folder of a small model with random weights, of two layers, context 64, 300 tokens."""
    import torch

    from pipelines.models.bert import build_bert
    from pipelines.models.export import export_model
    from pipelines.models.gpt2 import build_gpt2
    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape
    from pipelines.tokens.folder import write_folder
    from pipelines.tokens.learn import learn_bpe

    folder = tmp_path_factory.mktemp("bases")
    (folder / "tokenizer").mkdir()
    write_folder(learn_bpe(["words"] * 3, 300, 2), folder / "tokenizer")
    builders: dict[str, Any] = {"llama": build_llama, "gpt2": build_gpt2, "bert": build_bert}
    for name, build in builders.items():
        torch.manual_seed(0)
        shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1 if name == "llama" else 2, intermediate=96)
        model = build(shape, vocab_size=300, max_positions=64, bos_id=0, eos_id=1, pad_id=2)
        export_model(model, folder / "tokenizer", folder / name, torch.randint(0, 300, (1, 8)))
    return {name: folder / name for name in builders}
