"""A pretrained model from elsewhere as an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.artifact import Artifact, local_copy
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store_local import LocalStore
from pipelines.models.existing import STAGE, ExistingModelConfig


def gpt2(folder: Path, *, safe: bool = True) -> Path:
    """A folder as transformers writes it, with a tokenizer and no pad token, no chat template, an odd vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=16, n_embd=32, n_layer=1, n_head=2))
    model.save_pretrained(folder)
    if not safe:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    words = {word: number for number, word in enumerate(["<|endoftext|>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


def take(source: str | Path, store: LocalStore) -> Artifact:
    config = ExistingModelConfig(source=str(source))
    with Progress().track("base") as tracker:
        return execute(STAGE, identify(STAGE, config, {}, "finetune-base"), config, {}, store, tracker).artifact


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_becomes_a_model_with_the_same_function(safe: bool, store: LocalStore, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = gpt2(tmp_path / "given", safe=safe)
    artifact = take(folder, store)
    assert artifact.kind == "Model" and artifact.counts["parameters"] > 10_000
    assert artifact.details["architecture"] == "gpt2"
    copy = local_copy(store, artifact)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in copy.iterdir()}
    ids = torch.arange(9)[None]
    with torch.no_grad():
        first, second = (AutoModelForCausalLM.from_pretrained(each).eval()(ids).logits for each in (folder, copy))
    assert torch.equal(first, second)
    assert str(tmp_path / "given") not in store.read(f"{artifact.id}/artifact.json").decode()
    again = take(artifact.id, store)  # an artifact's id is a source as well
    assert again.counts == artifact.counts and again.inputs["source"].id == artifact.id


def test_the_identity_is_the_content(store: LocalStore, tmp_path: Path) -> None:
    first, second = gpt2(tmp_path / "a"), gpt2(tmp_path / "b")

    def fingerprint(folder: Path) -> str:
        return identify(STAGE, ExistingModelConfig(source=str(folder)), {}).fingerprint

    assert fingerprint(first) == fingerprint(second)
    (second / "generation_config.json").write_text("{}")
    assert fingerprint(first) != fingerprint(second)


def test_what_is_no_causal_model_is_named(store: LocalStore, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    with pytest.raises(UserError, match=r"finetune.model: .*nowhere: no such folder"):
        take(tmp_path / "nowhere", store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config.json"):
        take(tmp_path / "empty", store)
    folder = gpt2(tmp_path / "given")
    (folder / "model.safetensors").rename(tmp_path / "aside")
    with pytest.raises(UserError, match="holds no weights"):
        take(folder, store)
    (tmp_path / "aside").rename(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        take(folder, store)
    config = BertConfig(vocab_size=11, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(gpt2(tmp_path / "bert"))
    with pytest.raises(UserError, match=r"bert \(BertForMaskedLM\) does not predict next tokens"):
        take(tmp_path / "bert", store)
    (folder / "config.json").write_text('{"model_type": "nobody-knows"}')
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="transformers cannot read it"):
        take(folder, store)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(store: LocalStore, tmp_path: Path) -> None:
    """As where a token for padding was added to the one and not to the other."""
    from tokenizers import Tokenizer

    folder = gpt2(tmp_path / "given")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["a new one"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert take(folder, store).counts["parameters"] > 10_000  # its eleven fill the eleven rows
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="a vocabulary of 12, the model's embedding 11 rows") as raised:
        take(folder, store)
    assert (
        str(raised.value.where).startswith("finetune.model: ") and "resize_token_embeddings" in raised.value.next_step
    )


def test_an_encoder_is_taken_whole_where_nothing_has_to_be_written_with_it(tmp_path: Path, store: LocalStore) -> None:
    """Its weights in torch's format are read by the class that wrote them: no other keeps all of its parts."""
    from safetensors import safe_open
    from transformers import BertConfig, BertForMaskedLM

    folder = gpt2(tmp_path / "encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = BertForMaskedLM(BertConfig(vocab_size=11, max_position_embeddings=16, **sizes))
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="does not predict next tokens"):
        take(folder, store)
    config = ExistingModelConfig(source=str(folder), causal=False)
    with Progress().track("base") as tracker:
        taken = execute(STAGE, identify(STAGE, config, {}, "finetune-base"), config, {}, store, tracker).artifact
    with safe_open(local_copy(store, taken) / "model.safetensors", framework="pt") as file:
        assert "cls.predictions.transform.dense.weight" in file.keys()  # noqa: SIM118
