"""Figures about encoded documents, against counting by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from cluster.artifact import Artifact, FileEntry
from pipelines.tokens.encode import LARGEST_SHARE_BYTES, encode_table, parts_of
from pipelines.tokens.learn import learn_bpe
from pipelines.tokens.marks import Marks
from pipelines.tokens.statistics import CorpusStatistics, rank_frequency, unigram_loss

ROWS = [
    ("a", "two words", "web", "en", "train"),
    ("b", "Grüße aus Köln", "web", "de", "train"),
    ("c", "", "books", "en", "validation"),
    ("d", "one <|eos|> two\nthree", "books", None, "train"),
    ("e", "你好 世界", "web", "zh", "train"),
]


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    names = ("id", "text", "source", "language")
    columns: dict[str, Any] = {name: pa.array([row[place] for row in rows]) for place, name in enumerate(names)}
    return pa.table(columns)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_bpe([row[1] for row in ROWS] * 3, 300, 2)


@pytest.mark.parametrize("bos", [0, None])
def test_every_tally_is_what_counting_gives(tokenizer: Tokenizer, bos: int | None) -> None:
    marks = Marks(bos, 1, 2, None, (), frozenset([0, 1, 2]))
    statistics = CorpusStatistics()
    for rows in (ROWS[:2], ROWS[2:3], ROWS[3:]):
        batch = encode_table(table(rows), rows[0][4], tokenizer.to_str(), marks)
        statistics.add(batch)
        edges = np.concatenate([[0], np.cumsum(batch.lengths)])
        for number, row in enumerate(rows):
            tokens = batch.tokens[edges[number] : edges[number + 1]].tolist()
            plain = learn_ids(tokenizer, row[1])
            assert tokens == ([] if bos is None else [bos]) + plain + [1]
    expected: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for _, text, source, language, split in ROWS:
        for key in (("split", split), ("source", source), ("language", language or "unknown")):
            for place, value in enumerate((1, len(text.encode()), len(text.split()), len(learn_ids(tokenizer, text)))):
                expected[key][place] += value
    found = {
        (kind, name): [tally.documents, tally.text_bytes, tally.words, tally.text_tokens]
        for kind, tallies in (
            ("split", statistics.by_split),
            ("source", statistics.by_source),
            ("language", statistics.by_language),
        )
        for name, tally in tallies.items()
    }
    assert found == dict(expected)
    histogram = statistics.length_histogram()
    assert sum(histogram.values()) == len(ROWS)
    lengths = [len(learn_ids(tokenizer, row[1])) + marks.around for row in ROWS]
    for limit in (4, 8, 16, 32):
        expected_count = sum(limit // 2 < length <= limit for length in lengths)
        assert histogram.get(f"≤ {limit} tokens", 0) == expected_count
    assert statistics.by_language["de"].row("de")["tokens per word"] > 1


def learn_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text in which a mark's name is ordinary text."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    return list(plain.encode(text, add_special_tokens=False).ids)


def test_a_block_of_which_everything_is_done_gives_nothing(tokenizer: Tokenizer) -> None:
    marks = Marks(0, 1, 2, None, (), frozenset([0, 1, 2]))
    encoded = encode_table(table(ROWS).slice(0, 0), "train", tokenizer.to_str(), marks)
    assert encoded.ids == [] and len(encoded.tokens) == 0


def corpus(sizes: list[int]) -> Artifact:
    files = [FileEntry(path=f"train/{n}.parquet", size_bytes=size, sha256="") for n, size in enumerate(sizes)]
    return Artifact(kind="Corpus", name="curate", fingerprint="0" * 64, identity={}, attempt="a", files=files)


def test_parts_are_small_enough_for_every_core_and_few_enough_for_a_driver() -> None:
    mebibyte = 1 << 20
    assert [len(parts_of(corpus(sizes), 2)) for sizes in ([0], [100], [8 * mebibyte], [mebibyte] * 8)] == [1, 1, 32, 32]
    # A large corpus: files as the stages before write them, each read a few times at most.
    assert len(parts_of(corpus([12 * mebibyte] * 1000), 2)) == 1000 * 12 * mebibyte / LARGEST_SHARE_BYTES
    parts = parts_of(corpus([mebibyte, 5 * mebibyte]), 1)
    for path, share in (("train/0.parquet", 3), ("train/1.parquet", 14)):
        assert [(each.which, each.shares) for each in parts if each.path == path] == [(n, share) for n in range(share)]


def test_frequencies_by_rank_fall() -> None:
    counts = np.array([0, 1000, 10, 100, 0, 1])
    assert rank_frequency(counts) == [
        pytest.approx(point) for point in ((0, 3), (math.log10(2), 2), (math.log10(3), 1), (math.log10(4), 0))
    ]
    assert rank_frequency(np.zeros(4, int)) == []
    assert len(rank_frequency(np.arange(100_000))) <= 60


def test_the_unigram_loss_is_the_cross_entropy_of_smoothed_shares() -> None:
    train, validation = np.array([3, 0, 1]), np.array([1, 1, 0])
    assert unigram_loss(train, validation) == pytest.approx(-(math.log(4 / 7) + math.log(1 / 7)) / 2)
