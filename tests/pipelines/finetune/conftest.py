from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cluster.artifact import Artifact
    from cluster.store import Store
    from pipelines.finetune.config import FinetuneConfig
    from pipelines.finetune.task import FinetuneTask


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in this process, as one worker does it."""
    from pipelines.train import launch
    from tests.pipelines.one_process import train_here

    monkeypatch.setattr(launch, "run_training", train_here)


@pytest.fixture
def task_of(store: Store, publish_model: Callable[..., Artifact]) -> Callable[..., FinetuneTask]:
    """``task_of(config, base, template)``: a task of the examples that a recipe's section means, prepared."""

    def make(config: FinetuneConfig, base: Path, template: str | None = None) -> FinetuneTask:
        from pipelines.finetune.examples.records import to_jsonl
        from pipelines.finetune.load import load_examples
        from pipelines.finetune.task import FinetuneTask

        keys = {}
        for name, part in load_examples(config, None, store).parts().items():
            keys[name] = f"examples/{name}.jsonl"
            store.write(keys[name], to_jsonl(part).encode())
        task = FinetuneTask(config, publish_model(store, base, "Model", "base"), keys, template)
        task.prepare(store)
        return task

    return make


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


@pytest.fixture(scope="session")
def encoder_decoders(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``t5`` as Raymill writes it, and ``bart`` as the Hub's are: with a tokenizer that puts marks around a text.

    Small, with random weights; bart's decoder begins with the mark that ends a text, and is forced to write ``<s>``.
    """
    import json
    import shutil

    import torch
    from tokenizers import Tokenizer, processors
    from transformers import BartConfig, BartForConditionalGeneration

    from pipelines.models.export import export_model
    from pipelines.models.shapes import Shape
    from pipelines.models.t5 import build_t5

    folder = tmp_path_factory.mktemp("encoder-decoders")
    torch.manual_seed(0)
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=2, intermediate=96, norm_epsilon=1e-6)
    t5 = build_t5(shape, vocab_size=300, bos_id=0, eos_id=1, pad_id=2)
    probe = torch.randint(0, 300, (1, 8))
    export_model(t5, bases["llama"].parent / "tokenizer", folder / "t5", probe, {"decoder_input_ids": probe})
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 64}
    marks = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    bart = BartForConditionalGeneration(BartConfig(vocab_size=300, dropout=0.0, **sizes, **marks))
    bart.generation_config.forced_bos_token_id = 0
    bart.save_pretrained(folder / "bart")
    shutil.copyfile(bases["llama"] / "tokenizer_config.json", folder / "bart" / "tokenizer_config.json")
    tokenizer = Tokenizer.from_file(str(bases["llama"] / "tokenizer.json"))
    named = json.loads((folder / "bart" / "tokenizer_config.json").read_text())
    begin, end = named["bos_token"], named["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 0), (end, 1)]
    )
    tokenizer.save(str(folder / "bart" / "tokenizer.json"))
    return {name: folder / name for name in ("t5", "bart")}
