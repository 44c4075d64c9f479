"""The stages tokenizer and tokens from corpus to report; documents are encoded in this process instead of on Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from cluster.artifact import Artifact, local_copy
from cluster.progress import Progress
from cluster.stage import Stage, execute, identify
from cluster.store import Store, open_store
from pipelines.tokens import encode
from pipelines.tokens.config import TOKENIZER_STAGE, TOKENS_STAGE, TokenizerConfig, TokensConfig
from pipelines.tokens.marks import Marks, read_marks
from pipelines.tokens.packing import TokenBlocks

SPLITS = ("train", "validation")


class InProcess:
    """What ``encode_splits`` does, a file at a time, stopping after so many batches where asked to."""

    def __init__(self) -> None:
        self.left_out: list[int] = []
        self.stop_after: int | None = None

    def __call__(
        self,
        store: Store,
        corpus: Artifact,
        tokenizer_json: str,
        marks: Marks,
        workers: int | None,
        done: Sequence[str],
    ) -> Iterator[encode.EncodedBatch]:
        self.left_out.append(len(done))
        for number, path in enumerate(encode.parquet_files(corpus)):
            if self.stop_after == number:
                raise KeyboardInterrupt
            filesystem, place = store.arrow(corpus.key(path))
            table = pq.read_table(place, filesystem=filesystem, columns=list(encode.COLUMNS), partitioning=None)
            table = table.filter(pc.invert(pc.is_in(table["id"], value_set=pa.array(done, pa.string()))))
            if len(table):
                yield encode.encode_table(table, path.split("/")[0], tokenizer_json, marks)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    replacement = InProcess()
    monkeypatch.setattr(encode, "encode_splits", replacement)
    return replacement


def run(stage: Stage, config: Any, inputs: dict[str, Artifact], store: Store) -> Artifact:
    identity = identify(stage, config, {role: each.fingerprint for role, each in inputs.items()})
    with Progress().track(stage.name) as tracker:
        return execute(stage, identity, config, inputs, store, tracker).artifact


@pytest.fixture
def corpus(
    tmp_path: Path, publish: Callable[..., Artifact], corpus_rows: list[dict[str, str]]
) -> tuple[Store, Artifact]:
    store = open_store(tmp_path / "store")
    rows = [row | {"language": "de" if number % 4 == 1 else "en"} for number, row in enumerate(corpus_rows[:30])]
    return store, publish(store, rows, files=3)


def texts(store: Store, corpus: Artifact, split: str) -> dict[str, str]:
    table = pq.read_table(local_copy(store, corpus) / split, partitioning=None)
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.usefixtures("in_process")
def test_from_corpus_to_blocks(corpus: tuple[Store, Artifact], algorithm: str) -> None:
    store, curated = corpus
    config = TokenizerConfig(algorithm=algorithm, vocab_size=400, mask_token=True, sentinels=2, special_tokens=["<a>"])
    tokenizer = run(TOKENIZER_STAGE, config, {"corpus": curated}, store)
    assert tokenizer.details["special_tokens"]["<|mask|>"] == 7
    assert tokenizer.counts["vocab_size"] == 400
    tokens = run(TOKENS_STAGE, TokensConfig(sequence_length=32), {"corpus": curated, "tokenizer": tokenizer}, store)
    plain = Tokenizer.from_str(store.read(tokenizer.key("tokenizer.json")).decode())
    plain.encode_special_tokens = True
    counted: dict[int, int] = {}
    for split in SPLITS:
        blocks = TokenBlocks(local_copy(store, tokens) / split)
        found = texts(store, curated, split)
        table = pq.read_table(local_copy(store, tokens) / split / "documents.parquet", partitioning=None).to_pylist()
        assert {row["id"] for row in table} == found.keys()
        for row in table:
            document = blocks.stream()[row["start"] : row["start"] + row["tokens"]].tolist()
            assert document == [0, *plain.encode(found[row["id"]], add_special_tokens=False).ids, 1]
        assert blocks.index.tokens == tokens.counts[f"{split}_tokens"] == sum(row["tokens"] for row in table)
        for token, count in zip(*np.unique(blocks.stream(), return_counts=True), strict=True):
            counted[int(token)] = counted.get(int(token), 0) + int(count)
    assert tokens.counts["unused_tokens"] == 400 - len(counted)
    fertility = tokens.details["fertility"]
    assert set(fertility["language"]) == {"de", "en"}
    assert sum(row["tokens"] for row in fertility["language"].values()) == tokens.counts["tokens"] - 2 * 30
    page = store.read(tokens.key("report.html")).decode()
    for part in (
        "Fertility",
        "tokens per word by source",
        "tokens per word by language",
        "tokens by frequency",
        "Unused",
    ):
        assert part in page
    assert "Conversations" in store.read(tokenizer.key("report.html")).decode()


@pytest.mark.usefixtures("in_process")
def test_an_existing_tokenizer_without_a_first_mark(corpus: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, curated = corpus
    own = run(TOKENIZER_STAGE, TokenizerConfig(vocab_size=320), {"corpus": curated}, store)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(store.read(own.key("tokenizer.json")))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    tokenizer = run(TOKENIZER_STAGE, TokenizerConfig(source=str(folder)), {"corpus": curated}, store)
    assert tokenizer.identity["config"]["source"].startswith("sha256:")
    assert tokenizer.details["source"] == str(folder)
    marks = read_marks(local_copy(store, tokenizer))
    assert (marks.bos, marks.eos, marks.pad) == (None, 6, 6)
    tokens = run(TOKENS_STAGE, TokensConfig(sequence_length=32), {"corpus": curated, "tokenizer": tokenizer}, store)
    blocks = TokenBlocks(local_copy(store, tokens) / "train")
    assert blocks.index.bos_id is None
    assert int((blocks.stream() == 6).sum()) == blocks.index.documents
    # The end of the last block reads as ends of documents, and is not predicted.
    last = np.array([len(blocks) - 1])
    assert (blocks.read(last)[0, 1 + int(blocks.targets(last)[0]) :] == 6).all()


def test_a_stopped_encoding_continues_and_gives_the_same_bytes(
    corpus: tuple[Store, Artifact], in_process: InProcess, tmp_path: Path
) -> None:
    store, curated = corpus
    tokenizer = run(TOKENIZER_STAGE, TokenizerConfig(vocab_size=320), {"corpus": curated}, store)
    both, config = {"corpus": curated, "tokenizer": tokenizer}, TokensConfig(sequence_length=32)
    in_process.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(TOKENS_STAGE, config, both, store)
    in_process.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        run(TOKENS_STAGE, config, both, store)
    in_process.stop_after = None
    continued = run(TOKENS_STAGE, config, both, store)
    assert in_process.left_out == [0, 18, 27]
    for entry in list(store.files(f"{continued.id}/")):
        store.delete(entry.key)
    undisturbed = run(TOKENS_STAGE, config, both, store)
    assert in_process.left_out[-1] == 0
    assert [(each.path, each.sha256) for each in continued.files] == [
        (each.path, each.sha256) for each in undisturbed.files
    ]
    assert continued.counts == undisturbed.counts
    assert continued.metrics == undisturbed.metrics
