"""`raymill convert` between checkpoints and Hugging Face folders, in this process and on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from cluster.errors import UserError
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.models.bert import build_bert
from pipelines.models.gpt2 import build_gpt2
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.models.t5 import build_t5
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.keeper import Keeper
from pipelines.train.loop import train
from pipelines.train.order import Indices
from pipelines.train.task import Batch

SHAPE = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
CONFIG = TrainConfig(batch_sequences=4, workers=1, validation_sequences=4)


class Random:
    def __len__(self) -> int:
        return 16

    def batch(self, indices: Indices) -> Batch:
        tokens = torch.randint(0, 50, (16, 9), generator=torch.Generator().manual_seed(0))[indices % 16]
        return Batch(tokens[:, :-1], tokens[:, 1:])

    def targets(self, indices: Indices) -> int:
        return 8 * len(indices)


@pytest.fixture
def larger_tokenizer(tmp_path: Path) -> Path:
    """A tokenizer with more tokens than the models here have rows."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    write_folder(learn_bpe(["some words to learn from and more of them"] * 40, 300, 2), folder)
    return folder


@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_there_and_back_is_the_same_model(
    tmp_path: Path, build: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = build(SHAPE, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)  # type: ignore[operator]
    keeper = Keeper(LocalStore(tmp_path), "run/checkpoints", (), Group(), None, 2)
    train(model, Random(), Random(), 3, CONFIG, Group(), keeper, "here")

    assert run_command(["convert", "run/checkpoints", "hf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3
    assert len({path.stat().st_mode for path in (tmp_path / "hf").iterdir()}) == 1  # who may read one may read all
    copy = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    probe = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(copy.eval()(probe).logits, model.eval()(probe).logits)

    # Back, and a run begins with these weights.
    assert run_command(["convert", "hf", "next/checkpoints"]) == 0
    other = build(SHAPE, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)  # type: ignore[operator]
    keeper = Keeper(LocalStore(tmp_path), "next/checkpoints", (), Group(), None, 2)
    config = CONFIG.model_copy(update={"learning_rate": 1e-12})
    finished, _ = train(other, Random(), Random(), 1, config, Group(), keeper, "here")
    assert finished.resumed_at == 0
    with torch.no_grad():
        assert torch.allclose(other.eval()(probe).logits, model(probe).logits, atol=1e-5)


def llama(**fields: Any) -> Any:
    shape = replace(SHAPE, **fields)
    return build_llama(shape, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)


def mistral() -> Any:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}
    return MistralForCausalLM(MistralConfig(**sizes, **heads))


OTHERS: list[tuple[Callable[[], Any], str]] = [
    (lambda: llama(layers=3), r"it has model/model\.layers\.2\.input_layernorm\.weight as well"),
    (lambda: llama(layers=1), r"it has no model/model\.layers\.1\."),
    (lambda: llama(heads=2, kv_heads=2), "num_attention_heads is 2 there and 1 here"),
    (lambda: llama(rope_theta=5e5), "rope_theta is 500000.0 there and 10000.0 here"),
    (lambda: llama(norm_epsilon=1e-6), "rms_norm_eps is 1e-06 there and 1e-05 here"),
    (mistral, "it is of a MistralForCausalLM, and this is a LlamaForCausalLM"),
]
"""Most of them have the very tensors of the model that is trained."""


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_a_run_does_not_begin_with_another_architecture(
    tmp_path: Path, other: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other().save_pretrained(tmp_path / "other")
    assert run_command(["convert", "other", "checkpoints"]) == 0
    keeper = Keeper(LocalStore(tmp_path), "checkpoints", (), Group(), None, 2)
    with pytest.raises(UserError, match=message) as raised:
        train(llama(), Random(), Random(), 2, CONFIG, Group(), keeper, "here")
    assert "of another model" in raised.value.what and "--force" in raised.value.next_step


def test_a_gpt2_from_elsewhere_has_the_same_activation_by_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 1, "n_inner": 48}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["activation_function"] == "gelu_new"
    assert run_command(["convert", "theirs", "checkpoints"]) == 0
    keeper = Keeper(LocalStore(tmp_path), "checkpoints", (), Group(), None, 2)
    model = build_gpt2(SHAPE, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)
    finished, _ = train(model, Random(), Random(), 1, CONFIG, Group(), keeper, "here")
    assert finished.resumed_at == 0


def test_an_unfinished_artifacts_folder_means_the_try_that_got_furthest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, steps in (("20260101T000000-aa", 4), ("20260102T000000-bb", 2)):
        model = build_gpt2(SHAPE, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)
        place = f"Model/pretrain-0/{name}/resume/train/checkpoints"
        keeper = Keeper(LocalStore(tmp_path), place, (), Group(), None, 2)
        train(model, Random(), Random(), steps, CONFIG, Group(), keeper, "here")
    assert run_command(["convert", "Model/pretrain-0", "none", "--tokenizer", "Model"]) == 2
    assert "Model: there is no tokenizer here" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    for folder, step in (("Model/pretrain-0", 4), ("Model/pretrain-0/20260102T000000-bb", 2)):
        assert run_command(["convert", folder, f"step {step}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["step"] == step


KINDS: dict[str, Callable[[], Any]] = {
    "llama, untied": lambda: llama(tie_embeddings=False),
    "bert": lambda: build_bert(SHAPE, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2),
    "t5": lambda: build_t5(SHAPE, vocab_size=50, bos_id=0, eos_id=1, pad_id=2),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_comes_back_from_a_checkpoint(
    tmp_path: Path,
    kind: str,
    larger_tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = KINDS[kind]().eval()
    model.save_pretrained(tmp_path / "first")
    assert run_command(["convert", "first", "checkpoints"]) == 0
    assert run_command(["convert", "checkpoints", "second"]) == 0
    copy = type(model).from_pretrained(tmp_path / "second").eval()
    probe = {"input_ids": torch.arange(10)[None]} | (
        {"decoder_input_ids": torch.arange(4)[None]} if kind == "t5" else {}
    )
    with torch.no_grad():
        assert torch.equal(copy(**probe).logits, model(**probe).logits)
    capsys.readouterr()
    assert run_command(["convert", "checkpoints", "third", "--tokenizer", str(larger_tokenizer)]) == 2
    assert "the model's embedding 50 rows" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["nowhere", str(tmp_path / "out")], "no such folder"),
        ([str(tmp_path / "empty"), str(tmp_path / "out")], "there is no complete checkpoint here"),
        ([str(tmp_path / "empty"), str(tmp_path)], "is not empty"),
    ):
        assert run_command(["convert", *words]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert run_command(["convert", str(tmp_path / "empty"), str(tmp_path / "out")]) == 2
    assert "is not a model that transformers reads" in capsys.readouterr().err
    assert sys.exc_info() == (None, None, None)
