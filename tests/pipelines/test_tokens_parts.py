"""A corpus cut into parts gives every document once, whatever the parts; no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifact import Artifact
from cluster.store import Store
from pipelines.tokens import encode
from pipelines.tokens.learn import learn_bpe
from pipelines.tokens.marks import Marks

MARKS = Marks(0, 1, 2, None, (), frozenset([0, 1, 2]))


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch, corpus_rows: list[dict[str, str]]) -> Any:
    """The tokenizer's text; references to Ray's objects are the objects here."""
    monkeypatch.setattr(encode.ray, "get", lambda value: value)
    monkeypatch.setattr(encode, "_held", {})
    return learn_bpe([row["text"] for row in corpus_rows[:3]], 300, 2).to_str()


@pytest.mark.parametrize("shares", [1, 3, 50])
def test_shares_of_a_file_are_all_its_documents_in_order(
    any_store: Store, corpus_rows: list[dict[str, str]], publish: Callable[..., Artifact], tokenizer: Any, shares: int
) -> None:
    corpus = publish(any_store, corpus_rows[:21])
    found: list[tuple[str, str, list[int]]] = []
    for path in encode.parquet_files(corpus):
        for which in range(shares):
            part = encode.Part(path, shares, which)
            batch = encode.encode_part(
                part, store=any_store, corpus=corpus, tokenizer=tokenizer, marks=MARKS, done=None
            )
            edges = np.concatenate([[0], np.cumsum(batch.lengths)])
            found += [
                (batch.splits[n], batch.ids[n], batch.tokens[edges[n] : edges[n + 1]].tolist())
                for n in range(len(batch.ids))
            ]
    assert len(encode._held) <= 1
    plain = encode._encoder(tokenizer)
    expected = {
        (row["id"], "train" if place % 10 else "validation"): [
            0,
            *plain.encode(row["text"], add_special_tokens=False).ids,
            1,
        ]
        for place, row in enumerate(corpus_rows[:21])
    }
    assert {(name, split): tokens for split, name, tokens in found} == expected
    assert len(found) == 21


def test_what_is_done_is_left_out(
    store: Store, corpus_rows: list[dict[str, str]], publish: Callable[..., Artifact], tokenizer: Any
) -> None:
    corpus = publish(store, corpus_rows[:9], files=1)
    done: Any = pa.array([corpus_rows[3]["id"], "of another file"], pa.string())
    batches = [
        encode.encode_part(
            encode.Part("train/part-00000.parquet", 2, which),
            store=store,
            corpus=corpus,
            tokenizer=tokenizer,
            marks=MARKS,
            done=done,
        )
        for which in (0, 1)
    ]
    assert [name for batch in batches for name in batch.ids] == [
        row["id"] for place, row in enumerate(corpus_rows[:9]) if place not in (0, 3)
    ]
