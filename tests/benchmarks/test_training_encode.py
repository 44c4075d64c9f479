"""The encoding benchmark's own parts: its documents, its corpus, and that it notices other tokens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.training_encode import (
    DOCUMENT_CHARACTERS,
    encode_here,
    make_documents,
    measure_without_ray,
    publish_corpus,
    publish_tokenizer,
)
from cluster.artifact import local_copy
from cluster.store import open_store
from pipelines.tokens.folder import corpus_encoder


def test_without_ray_both_sides_count_the_same_tokens() -> None:
    result = measure_without_ray(make_documents(None, 0.1), rounds=2)
    assert result["name"] == "encode_cpu"
    assert result["agreement"] == 1.0
    assert result["ratio"] > 0
    assert result["tokens"] > 10_000


def test_the_peer_encodes_every_document_of_the_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = make_documents(None, 0.1)
    assert sum(map(len, documents)) >= 0.09e6
    assert all(len(text) >= DOCUMENT_CHARACTERS for text in documents)
    store = open_store(tmp_path)
    corpus, tokenizer = publish_corpus(store, documents, "some"), publish_tokenizer(store, documents)
    place = local_copy(store, corpus)
    texts = pq.read_table(place / "train")["text"].to_pylist() + pq.read_table(place / "validation")["text"].to_pylist()
    assert sorted(texts) == sorted(documents)
    encode_here(str(local_copy(store, tokenizer) / "tokenizer.json"), str(place))
    result = json.loads(capsys.readouterr().out)
    encoder = corpus_encoder(store.read(tokenizer.key("tokenizer.json")).decode())
    digest = hashlib.sha256()
    for text in documents:
        digest.update(np.asarray(encoder.encode(text, add_special_tokens=False).ids, np.uint32).tobytes())
    assert result["digest"] == digest.hexdigest()
