"""Every kind of model through the pretraining task, in this process: it learns, and its export is what it learned."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.artifact import Artifact, FileEntry, InputEntry
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store, open_store
from pipelines import cli
from pipelines.pretrain import STAGE, PretrainConfig, PretrainTask, check_inputs
from pipelines.tokens.folder import corpus_encoder, write_folder
from pipelines.tokens.learn import learn_bpe
from pipelines.tokens.marks import read_marks
from pipelines.tokens.packing import Packer
from pipelines.tokens.special import special_tokens
from pipelines.train import launch
from pipelines.train.worker import Job, train_job

LENGTH = 64
SMALL = {"hidden": 64, "layers": 1, "heads": 2, "intermediate": 128}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"architecture": "gpt2", "isolate_documents": True, **SMALL},
    "bert": {"architecture": "bert", **SMALL},
    "t5": {"architecture": "t5", **SMALL},
    "lstm": {"architecture": "pipelines.models.recurrent:LSTMModel", "options": {"hidden": 64, "layers": 1}},
    "convolution": {
        "architecture": "pipelines.models.convolutional:ConvolutionalModel",
        "options": {"hidden": 64, "layers": 3},
    },
}


class Inputs:
    """Tokens and their tokenizer, published as the stages publish them."""

    def __init__(self, store: Store, rows: list[dict[str, str]]) -> None:
        import numpy as np

        self.store = store
        special = special_tokens(mask=True, sentinels=4)
        learned = learn_bpe([row["text"] for row in rows], 600, 2, special)
        folder = self._folder("Tokenizer/tokenizer-000000000000")
        write_folder(learned, folder, special)
        self.tokenizer = self._artifact("Tokenizer", "tokenizer", {}, {"vocab_size": learned.get_vocab_size()}, {})
        marks = read_marks(folder)
        encoder = corpus_encoder(learned.to_str())
        splits = {}
        for split, part in (("train", rows[:-8]), ("validation", rows[-8:])):
            place = self._folder("Tokens/tokens-000000000000") / split
            place.mkdir()
            ids: dict[str, Any] = {"bos_id": marks.bos, "eos_id": marks.eos, "pad_id": marks.pad}
            packer = Packer(place, vocab_size=learned.get_vocab_size(), **ids)
            for row in part:
                packer.add(row["id"], np.array([marks.bos, *encoder.encode(row["text"]).ids[1:], marks.eos]))
            splits[split] = packer.finish(LENGTH).__dict__
        parents = {"tokenizer": InputEntry(id=self.tokenizer.id, fingerprint=self.tokenizer.fingerprint)}
        self.tokens = self._artifact("Tokens", "tokens", parents, {}, {"splits": splits})

    def _folder(self, place: str) -> Path:
        folder = self.store.local_path(f"{place}/try")
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _artifact(self, kind: str, name: str, inputs: Any, counts: Any, details: Any) -> Artifact:
        files: list[FileEntry] = []
        return Artifact(
            kind=kind, name=name, fingerprint="0" * 64, identity={}, attempt="try", files=files, inputs=inputs,
            counts=counts, details=details,
        )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, corpus_rows: list[dict[str, str]]) -> Inputs:
    return Inputs(open_store(tmp_path_factory.mktemp("kinds") / "store"), corpus_rows[:60])


def pretrain(inputs: Inputs, name: str, kind: str, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    """Train in this process: the summary, the journal and the exported folder."""
    settings = {"steps": 40, "batch_sequences": 8, "learning_rate": 5e-3, "validation_sequences": 8, "workers": 1}
    config = PretrainConfig(**{**KINDS[kind], **settings, **changes})
    check_inputs(config, inputs.tokens, inputs.tokenizer, inputs.store)
    task = PretrainTask(config, inputs.tokens, inputs.tokenizer, LENGTH)
    job = Job(task=task, store=inputs.store, resume=f"run/{name}/resume", output=f"run/{name}/output")
    summary = train_job(job, 0, 1, torch.device("cpu"), time.monotonic())
    assert summary is not None
    records = [
        json.loads(line)
        for item in sorted(inputs.store.files(f"run/{name}/resume/journal"), key=lambda item: item.key)
        for line in inputs.store.read(item.key).decode().splitlines()
    ]
    folder = inputs.store.local_path(f"run/{name}/output")
    assert folder is not None
    return summary, records, folder


def losses(records: list[dict[str, Any]], kind: str) -> list[float]:
    return [each["loss"] for each in records if each["kind"] == kind]


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_learns_and_its_export_is_what_was_trained(inputs: Inputs, kind: str) -> None:
    summary, records, folder = pretrain(inputs, kind, kind)
    validation = losses(records, "validation")
    # From about ln(600) = 6.4 nats a token; a model that learns nothing beyond frequencies stays above 5.3.
    assert validation[0] == pytest.approx(6.4, abs=1.0)
    assert validation[-1] < validation[0] - 0.8
    assert summary["details"]["export_difference"] <= 1e-4
    assert summary["details"]["samples"]
    assert (folder / "model.safetensors").is_file()
    assert (folder / "tokenizer.json").is_file()
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 640
    if kind in ("bert", "t5"):
        again = losses(pretrain(inputs, f"{kind}-again", kind, steps=2)[1], "train")
        assert again[0] == losses(records, "train")[0]  # masks and spans are drawn as before


@pytest.mark.parametrize("kind", ["gpt2", "bert", "t5"])
def test_a_budget_of_tokens_is_of_what_is_read(inputs: Inputs, kind: str) -> None:
    """8 blocks of 64 tokens make a step, whatever a model has to predict of them."""
    summary, records, _ = pretrain(inputs, f"{kind}-budget", kind, tokens=1500, steps=None)
    assert summary["steps"] == 3
    read = [each["tokens"] for each in records if each["kind"] == "train"]
    assert read == pytest.approx([8 * LENGTH] * 3, rel=0.13)  # one of the blocks is the last, which may be short


def test_standard_models_load_in_transformers(inputs: Inputs) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    loaders: dict[str, Any] = {
        "gpt2": AutoModelForCausalLM,
        "bert": AutoModelForMaskedLM,
        "t5": AutoModelForSeq2SeqLM,
    }
    for kind, loader in loaders.items():
        folder = pretrain(inputs, f"load-{kind}", kind, steps=2)[2]
        model, tokenizer = loader.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("Return the value", return_tensors="pt").input_ids
        further = {"decoder_input_ids": ids[:, :1]} if kind == "t5" else {}
        assert torch.isfinite(model(input_ids=ids, **further).logits).all()
        if kind == "t5":
            assert model.generate(ids, max_new_tokens=3)[0, 0] == tokenizer.pad_token_id


def changed(artifact: Artifact, **update: Any) -> Artifact:
    return artifact.model_copy(update=update)


def test_inputs_that_do_not_fit_are_refused_with_one_message(inputs: Inputs) -> None:
    llama = PretrainConfig(**SMALL, kv_heads=2)
    other = changed(inputs.tokenizer, fingerprint="1" * 64)
    larger = changed(inputs.tokenizer, counts={"vocab_size": 601})
    index = inputs.tokens.details["splits"]["train"] | {"sequence_length": 512}
    long = changed(inputs.tokens, details={"splits": {"train": index}})
    bare = Inputs.__new__(Inputs)
    bare.store = inputs.store
    folder = bare._folder("Tokenizer/bare-000000000000")
    write_folder(learn_bpe(["words to learn from"] * 3, 300, 2), folder)
    plain = changed(inputs.tokenizer, name="bare")
    cases: list[tuple[PretrainConfig, Artifact, Artifact, str]] = [
        (llama, inputs.tokens, other, "made with another tokenizer, Tokenizer/tokenizer-000000000000"),
        (llama, inputs.tokens, larger, "have a vocabulary of 600, the tokenizer one of 601"),
        (PretrainConfig(**SMALL, kv_heads=2, max_positions=32), inputs.tokens, inputs.tokenizer, "max_positions 32 is"),
        (PretrainConfig(**KINDS["bert"]), inputs.tokens, plain, "no mask token, and bert learns by it"),
        (PretrainConfig(**KINDS["t5"]), inputs.tokens, plain, "has no sentinels"),
        (PretrainConfig(**KINDS["t5"]), long, inputs.tokenizer, "have 26 spans to leave out, and the tokenizer has 4"),
        (PretrainConfig(architecture="collections:OrderedDict"), inputs.tokens, inputs.tokenizer, "not a torch.nn.Mod"),
    ]
    for config, tokens, tokenizer, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            check_inputs(config, tokens, tokenizer, inputs.store)
        assert caught.value.next_step


def test_what_fits_is_taken(inputs: Inputs) -> None:
    for kind in KINDS.values():
        check_inputs(PretrainConfig(**kind), inputs.tokens, inputs.tokenizer, inputs.store)


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"fingerprint": "1" * 64}, "made with another tokenizer"),
    ({}, {"counts": {"vocab_size": 601}}, "have a vocabulary of 600, the tokenizer one of 601"),
    ({"max_positions": 32}, {}, "max_positions 32 is shorter than the tokens' blocks of 64"),
    ({"workers": 5}, {}, "5 workers need 5 CPUs, the cluster has 4"),
]


@pytest.mark.parametrize(("settings", "tokenizer", "message"), REFUSALS)
def test_the_command_line_says_one_thing_and_starts_nothing(
    inputs: Inputs,
    settings: dict[str, Any],
    tokenizer: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    def command(argv: list[str]) -> int:
        config = PretrainConfig(**SMALL, kv_heads=2, steps=1, **settings)
        both = {"tokens": inputs.tokens, "tokenizer": changed(inputs.tokenizer, **tokenizer)}
        identity = identify(STAGE, config, {role: each.fingerprint for role, each in both.items()})
        with Progress().track("pretrain") as tracker:
            execute(STAGE, identity, config, both, inputs.store, tracker)
        return 0

    monkeypatch.setattr(cli, "_dispatch", command)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(launch, "_Fit", lambda job: pytest.fail("workers were started"))
    before = [item.key for item in inputs.store.files()]
    assert cli.run_command(["run"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "Traceback" not in said
    reason, _, advice = said.partition("error: ")[2].strip().partition("\n")
    assert message in reason and advice.strip()
    assert [item.key for item in inputs.store.files()] == before
