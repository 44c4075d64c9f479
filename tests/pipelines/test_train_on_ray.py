"""The stages on a real Ray: two gloo workers against a plain loop, and runs that lose a worker or their driver."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, local_copy, read_json
from cluster.errors import UserError
from cluster.store import Store, open_store
from pipelines.pretrain import STAGE, PretrainConfig
from pipelines.tokens.config import TOKENS_STAGE, TokensConfig
from tests.cluster.socket_probe import asks_for_token, beyond_loopback
from tests.pipelines.train_driver import (
    CONFIG,
    STEPS,
    Inputs,
    artifact_of,
    assert_same_run,
    copy_inputs,
    driver,
    list_models,
    publish_inputs,
    records,
    run,
    starts,
    wait_for_restart,
    wait_for_step,
    workers_of,
)

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def inputs(training_ray: None, training_store: Store, corpus_rows: list[dict[str, str]], publish: Any) -> Inputs:
    return publish_inputs(training_store, corpus_rows[:60], publish)


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs) -> Artifact:
    config = PretrainConfig(**CONFIG)
    return run(STAGE, config, {"tokens": inputs.tokens, "tokenizer": inputs.tokenizer}, inputs.store).artifact


def test_encoding_is_the_same_for_any_layout(
    inputs: Inputs, corpus_rows: list[dict[str, str]], publish: Any, tmp_path: Path
) -> None:
    """One file or five, one task or many, another order of the rows: the same bytes."""
    store = open_store(tmp_path)
    rows = corpus_rows[:60]
    shuffled = [rows[n] for n in range(0, 60, 10)]
    rest = [row for row in reversed(rows) if row not in shuffled]
    spread = [*rest]
    for place, row in enumerate(shuffled):
        spread.insert(place * 10, row)
    corpus = publish(store, spread, files=5)
    copy_inputs(inputs, store)
    both = {"corpus": corpus, "tokenizer": inputs.tokenizer}
    again = run(TOKENS_STAGE, TokensConfig(sequence_length=48, workers=1), both, store).artifact
    first = {entry.path: entry.sha256 for entry in inputs.tokens.files if entry.path != "report.html"}
    second = {entry.path: entry.sha256 for entry in again.files if entry.path != "report.html"}
    assert first == second
    assert again.counts == inputs.tokens.counts
    assert again.metrics == pytest.approx(inputs.tokens.metrics)


def first_documents(batch: Any, count: int) -> Any:
    """The beginning of an encoded batch: as much as a killed encoding had written."""
    columns = {
        name: getattr(batch, name)[:count]
        for name in ("splits", "ids", "sources", "languages", "text_bytes", "words", "lengths")
    }
    return dataclasses.replace(batch, **columns, tokens=batch.tokens[: int(columns["lengths"].sum())])


def test_a_stopped_encoding_continues_and_gives_the_same_bytes(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.tokens import encode

    store = open_store(tmp_path)
    copy_inputs(inputs, store)
    both = {"corpus": inputs.corpus, "tokenizer": inputs.tokenizer}
    for entry in store.files(f"{inputs.tokens.id}/"):
        store.delete(entry.key)
    real = encode.encode_splits
    asked: list[int] = []

    def stop_after_one(*arguments: Any) -> Iterator[Any]:
        asked.append(len(arguments[-1]))
        for batch in real(*arguments):
            if len(asked) == 1:
                yield first_documents(batch, 20)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(encode, "encode_splits", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        run(TOKENS_STAGE, TokensConfig(sequence_length=48), both, store)
    again = run(TOKENS_STAGE, TokensConfig(sequence_length=48), both, store).artifact
    assert asked == [0, 20]
    assert {each.path: each.sha256 for each in again.files} == {each.path: each.sha256 for each in inputs.tokens.files}


def test_the_index_says_what_the_files_hold(inputs: Inputs) -> None:
    index = read_json(inputs.store, inputs.tokens, "train/index.json")
    assert index["sequence_length"] == 48
    assert index["tokens"] == inputs.tokens.counts["train_tokens"]
    assert index["documents"] == 54
    size = next(entry.size_bytes for entry in inputs.tokens.files if entry.path == "train/tokens.bin")
    assert size == 2 * (index["blocks"] * 48 + 1)
    assert index["blocks"] == -(-(index["tokens"] - 1) // 48)
    # Independent count: what the tokenizer gives for each text, and two marks a document.
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(inputs.store.read(inputs.tokenizer.key("tokenizer.json")).decode())
    texts = pq.read_table(local_copy(inputs.store, inputs.corpus) / "train")["text"].to_pylist()
    assert index["tokens"] == sum(len(tokenizer.encode(text, add_special_tokens=False).ids) + 2 for text in texts)


def test_two_workers_give_the_losses_of_one_plain_process(inputs: Inputs, undisturbed: Artifact) -> None:
    import torch
    from torch.nn import functional

    from pipelines.models.llama import build_llama
    from pipelines.tokens.packing import TokenBlocks
    from pipelines.train.order import sample_indices
    from pipelines.train.schedule import learning_rate

    config = PretrainConfig(**CONFIG)
    blocks = TokenBlocks(local_copy(inputs.store, inputs.tokens) / "train")
    torch.manual_seed(config.seed)
    rows = config.embedding_rows(600)
    model = build_llama(config.shape(), vocab_size=rows, max_positions=48, bos_id=0, eos_id=1, pad_id=2)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    measured = records(inputs.store, undisturbed)
    for step in range(15):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, STEPS)
        read = torch.from_numpy(blocks.read(sample_indices(step * 6, 6, len(blocks), config.seed)))
        logits = model(input_ids=read[:, :-1]).logits
        loss = functional.cross_entropy(logits.reshape(-1, rows), read[:, 1:].reshape(-1), ignore_index=2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert measured[step + 1] == pytest.approx(loss.item(), abs=1e-5)


def test_the_model_is_whole_and_learned(inputs: Inputs, undisturbed: Artifact) -> None:
    names = {entry.path for entry in undisturbed.files}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "metrics.jsonl",
        "report.html",
    } == names
    assert sorted(records(inputs.store, undisturbed)) == list(range(1, STEPS + 1))
    validation = records(inputs.store, undisturbed, "validation")
    assert sorted(validation) == [0, *range(24, STEPS + 1, 24)]
    assert undisturbed.metrics["validation.loss"] == validation[STEPS]
    # Better than knowing only how often each token occurs.
    assert undisturbed.metrics["validation.loss"] < inputs.tokens.metrics["validation.unigram_loss"] - 0.3
    assert undisturbed.counts["tokens"] == pytest.approx(STEPS * 6 * 48, rel=0.001)
    assert undisturbed.licences == inputs.corpus.licences
    assert not any("resume" in item.key for item in inputs.store.files(f"{undisturbed.id}/"))


def test_a_killed_worker_and_then_a_killed_driver_change_nothing(
    inputs: Inputs, undisturbed: Artifact, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "store")
    copy_inputs(inputs, store)
    with driver(store, inputs, CONFIG, tmp_path / "first.log") as process:
        wait_for_step(process, store, 45, tmp_path / "first.log")
        victims = workers_of(process)
        assert len(victims) == 2
        assert {each.nice() for each in victims} == {process.nice()}  # Ray's other workers give way to everything
        victims[1].kill()
        wait_for_restart(process, store, tmp_path / "first.log")
        wait_for_step(process, store, 130, tmp_path / "first.log")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    assert list_models(store) == []
    with driver(store, inputs, CONFIG | {"workers": 2}, tmp_path / "second.log") as process:
        assert process.wait(timeout=240) == 0, (tmp_path / "second.log").read_text()[-3000:]
    assert "continues at step" in (tmp_path / "second.log").read_text()
    artifact = artifact_of(store)
    assert_same_run(store, artifact, inputs.store, undisturbed)
    begun = [each["step"] for each in starts(store, artifact)]
    assert len(begun) == 3
    assert 0 < begun[1] < begun[2] < STEPS
    # The killed try's own leftovers stay until its lease has run out.
    assert not any("resume" in item.key for item in store.files(f"{artifact.data_prefix}/"))


@pytest.mark.slow
def test_what_training_opens_beyond_loopback_asks_for_the_token(inputs: Inputs, tmp_path: Path) -> None:
    """Ray's ports do; what torch opens, which asks nobody, is on loopback."""
    store = open_store(tmp_path / "store")
    copy_inputs(inputs, store)
    log = tmp_path / "log"
    with driver(store, inputs, CONFIG | {"steps": 1_000_000}, log) as process:
        wait_for_step(process, store, 3, log)
        opened = beyond_loopback(each.pid for each in workers_of(process))
        assert len(opened) >= 2
        assert [where for where in opened if not asks_for_token(where)] == []


@pytest.mark.slow
def test_a_diverging_run_ends_with_the_users_error(inputs: Inputs) -> None:
    config = PretrainConfig(**(CONFIG | {"learning_rate": 1e30, "steps": 20, "gradient_clip": 1e30}))
    with pytest.raises(UserError, match=r"(the loss|the gradient's norm) became (nan|inf) at step") as raised:
        run(STAGE, config, {"tokens": inputs.tokens, "tokenizer": inputs.tokenizer}, inputs.store)
    assert "learning_rate" in raised.value.next_step


def test_more_workers_than_the_cluster_has_are_refused_at_once(inputs: Inputs) -> None:
    config = PretrainConfig(**(CONFIG | {"workers": 100, "batch_sequences": 100}))
    with pytest.raises(UserError, match=r"100 workers need 100 CPUs, the cluster has \d+"):
        run(STAGE, config, {"tokens": inputs.tokens, "tokenizer": inputs.tokenizer}, inputs.store)
    config = PretrainConfig(**(CONFIG | {"gpus_per_worker": 1}))
    with pytest.raises(UserError, match=r"set pretrain\.gpus_per_worker: 0"):
        run(STAGE, config, {"tokens": inputs.tokens, "tokenizer": inputs.tokenizer}, inputs.store)


def test_bad_combinations_of_inputs(inputs: Inputs) -> None:
    config = PretrainConfig(**(CONFIG | {"max_positions": 32}))
    with pytest.raises(UserError, match="max_positions 32 is shorter than the tokens' blocks of 48"):
        run(STAGE, config, {"tokens": inputs.tokens, "tokenizer": inputs.tokenizer}, inputs.store)
    other = inputs.tokenizer.model_copy(update={"fingerprint": "f" * 64})
    with pytest.raises(UserError, match="made with another tokenizer"):
        run(STAGE, PretrainConfig(**CONFIG), {"tokens": inputs.tokens, "tokenizer": other}, inputs.store)


def test_finetuning_gives_an_adapter_that_answers_better(inputs: Inputs, undisturbed: Artifact) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from pipelines.finetune import ADAPTER_STAGE as FINETUNE
    from pipelines.finetune import FinetuneConfig

    config = FinetuneConfig(steps=60, batch_sequences=8, sequence_length=48, checkpoint_every_steps=20)
    both = {"model": undisturbed, "corpus": inputs.corpus}
    artifact = run(FINETUNE, config, both, inputs.store).artifact
    names = {entry.path for entry in artifact.files}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer_config.json",
        "examples/train.jsonl",
    } <= names
    assert artifact.metrics["validation.loss"] < artifact.metrics["validation.loss_before"] - 0.2
    settings = read_json(inputs.store, artifact, "adapter_config.json")
    assert settings["base_model_name_or_path"] == undisturbed.id
    base = AutoModelForCausalLM.from_pretrained(local_copy(inputs.store, undisturbed))
    with torch.no_grad():
        probe = torch.arange(20)[None]
        before = base(probe).logits
        after = PeftModel.from_pretrained(base, local_copy(inputs.store, artifact))(probe).logits
    assert not torch.allclose(before, after, atol=1e-3)
    text = inputs.store.read(artifact.key("report.html")).decode()
    assert "Held-out questions" in text


@pytest.mark.slow  # beside the same in a folder and the s3:// run of tests/test_end_to_end.py
def test_a_run_in_an_s3_store_continues_after_a_kill(
    inputs: Inputs, undisturbed: Artifact, s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # copies of inputs are cached below it
    copy_inputs(inputs, s3_store)
    log = tmp_path / "first.log"
    with driver(s3_store, inputs, CONFIG, log) as process:
        limit = time.monotonic() + 120
        while not any(item.key.endswith("complete.json") for item in s3_store.files("Model/")):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < limit, log.read_text()[-3000:]
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    with driver(s3_store, inputs, CONFIG, tmp_path / "second.log") as process:
        assert process.wait(timeout=240) == 0, (tmp_path / "second.log").read_text()[-3000:]
    assert "continues at step" in (tmp_path / "second.log").read_text()
    assert_same_run(s3_store, artifact_of(s3_store), inputs.store, undisturbed)
