from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.errors import InternalError
from pipelines.models import export
from pipelines.models.export import export_model
from pipelines.models.llama import build_llama
from pipelines.models.sampling import continue_texts
from pipelines.models.shapes import Shape
from pipelines.models.stops import stop_ids
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    write_folder(learn_bpe(["some words to learn from"] * 3, 300, 2), folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_the_reloaded_model_is_the_trained_one(tmp_path: Path, tokenizer_folder: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    torch.manual_seed(3)
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=96, tie_embeddings=tied)
    model = build_llama(shape, vocab_size=300, max_positions=32, bos_id=0, eos_id=1, pad_id=2)
    probe = torch.randint(0, 300, (2, 20))
    out = tmp_path / "model"
    assert export_model(model, tokenizer_folder, out, probe) <= 1e-4
    again = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        assert torch.allclose(again(probe).logits, model.eval()(probe).logits, atol=1e-4)
    assert again.config.head_dim == 32
    assert again.config.tie_word_embeddings is tied
    assert again.dtype == torch.float32
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["model.safetensors"]
    generation = GenerationConfig.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert generation.eos_token_id == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    assert tokenizer.model_max_length == 32
    assert tokenizer.chat_template
    texts = continue_texts(model, out, seed=1, tokens=5)
    assert texts == continue_texts(model, out, seed=1, tokens=5)


def test_an_export_that_differs_is_an_error(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Shape(hidden=64, layers=1, heads=2, kv_heads=1, intermediate=96)
    model = build_llama(shape, vocab_size=300, max_positions=32, bos_id=0, eos_id=1, pad_id=2)
    real = export.AutoModelForCausalLM.from_pretrained

    class Damaging:
        @staticmethod
        def from_pretrained(*args: object, **settings: object) -> object:
            copy = real(*args, **settings)
            with torch.no_grad():
                copy.model.norm.weight.mul_(1.01)
            return copy

    monkeypatch.setattr(export, "AutoModelForCausalLM", Damaging)
    with pytest.raises(InternalError, match="differs from the trained one"):
        export_model(model, tokenizer_folder, tmp_path / "model", torch.randint(0, 300, (1, 8)))


def test_a_tokenizer_without_the_end_token_stops_at_eos_only(tokenizer_folder: Path) -> None:
    path = tokenizer_folder / "tokenizer.json"
    tokens = json.loads(path.read_text())
    tokens["added_tokens"] = [each for each in tokens["added_tokens"] if each["content"] != "<|end|>"]
    path.write_text(json.dumps(tokens))
    (tokenizer_folder / "tokenizer_config.json").write_text('{"eos_token": "<|eos|>"}')
    assert stop_ids(tokenizer_folder) == [1]
