"""Held-out figures: which documents, the unigram baseline and the arithmetic, against plain computations."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InternalError
from cluster.store import Store
from evals.heldout import DOCUMENT_CHARACTERS, HeldOut, _train_pieces, choose_documents, unigram_log_likelihood

from .conftest import publish, write_corpus

DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=8)


@given(DOCUMENTS, DOCUMENTS)
def test_the_baseline_is_add_one_smoothed_frequencies(train: list[list[int]], held_out: list[list[int]]) -> None:
    counts = Counter(token for tokens in train for token in tokens)
    probability = {token: (counts[token] + 1) / (counts.total() + 10) for token in range(10)}
    assert math.fsum(probability.values()) == pytest.approx(1)
    expected = math.fsum(math.log(probability[token]) for tokens in held_out for token in tokens)
    assert unigram_log_likelihood(counts, 10, held_out) == pytest.approx(expected, rel=1e-12)


def test_the_figures_by_hand() -> None:
    """Two bits a token for the model and three for the baseline; four bytes a token."""
    metrics = HeldOut(1, 10, 40, -20 * math.log(2), -30 * math.log(2)).metrics()
    assert metrics == {
        "heldout.perplexity": pytest.approx(4),
        "heldout.unigram_perplexity": pytest.approx(8),
        "heldout.unigram_ratio": pytest.approx(0.5),
        "heldout.bits_per_byte": pytest.approx(0.5),
    }


@pytest.mark.parametrize("likelihood", [math.nan, -math.inf, -1e6])
def test_a_model_without_usable_probabilities_is_an_error(likelihood: float) -> None:
    with pytest.raises(InternalError, match=r"heldout\.perplexity: the loss on held-out text is"):
        HeldOut(1, 10, 40, likelihood, -30.0).metrics()


def test_the_same_documents_are_taken_whatever_the_layout_of_the_files(store: Store, tmp_path: Path) -> None:
    one = publish(store, "Corpus", "one", write_corpus(tmp_path / "one", files=1))
    three = publish(store, "Corpus", "three", write_corpus(tmp_path / "three", files=3, reverse=True))
    chosen = choose_documents(store, one, 7)
    assert chosen == choose_documents(store, three, 7)
    assert len(chosen) == 12
    assert chosen != choose_documents(store, one, 8)


def test_documents_are_in_the_order_of_the_seeded_hash_of_their_ids(store: Store, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [f"d{number}" for number in range(20)]
    (tmp_path / "c" / "validation").mkdir(parents=True)
    table = pa.Table.from_pylist([{"id": each, "text": each + "x" * DOCUMENT_CHARACTERS} for each in ids])
    pq.write_table(table, tmp_path / "c" / "validation" / "part-00000.parquet")
    corpus = publish(store, "Corpus", "c", tmp_path / "c")
    texts = choose_documents(store, corpus, 3)
    order = sorted(ids, key=lambda each: hashlib.sha256(f"3\0{each}".encode()).hexdigest())
    assert [text.partition("x")[0] for text in texts] == order
    assert {len(text) for text in texts} == {DOCUMENT_CHARACTERS}


def test_the_train_split_is_counted_whole_and_once(store: Store, tmp_path: Path) -> None:
    corpus = publish(store, "Corpus", "c", write_corpus(tmp_path / "c", files=2))
    pieces = _train_pieces(store, corpus)
    assert pieces == [(corpus.key(f"train/part-{part:05d}.parquet"), [group]) for part in (0, 1) for group in range(3)]
