from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tokens.packing import STREAM, Packer, TokenBlocks, order_key, stream_dtype

BOS, EOS, PAD = 0, 1, 2
DOCUMENTS = st.dictionaries(st.text(min_size=1, max_size=8), st.lists(st.integers(3, 499), max_size=30), min_size=1)


def pack(folder: Path, documents: list[tuple[str, list[int]]], length: int, vocab_size: int = 500) -> TokenBlocks:
    folder.mkdir(parents=True)
    packer = Packer(folder, vocab_size=vocab_size, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    for name, tokens in documents:
        packer.add(name, np.array([BOS, *tokens, EOS], np.uint32))
    packer.finish(length)
    return TokenBlocks(folder)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.integers(1, 40), st.randoms(use_true_random=False))
def test_no_token_is_lost_and_order_of_arrival_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, documents: dict[str, list[int]], length: int, random: object
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    arrived = list(documents.items())
    blocks = pack(folder / "a", arrived, length)
    random.shuffle(arrived)  # type: ignore[attr-defined]
    again = pack(folder / "b", arrived, length)

    expected: list[int] = []
    starts = []
    for name in sorted(documents, key=lambda name: (order_key(name), name)):
        starts.append(len(expected))
        expected += [BOS, *documents[name], EOS]
    assert blocks.stream().tolist() == expected
    assert blocks.document_starts().tolist() == starts
    assert (folder / "a" / STREAM).read_bytes() == (folder / "b" / STREAM).read_bytes()
    assert blocks.index == again.index
    assert blocks.index.tokens == len(expected)
    assert blocks.index.documents == len(documents)

    everything = np.arange(len(blocks))
    read, targets = blocks.read(everything), blocks.targets(everything)
    assert read.shape == (len(blocks), length + 1)
    # Every token but the first is predicted once, from the token before it.
    predicted = [int(token) for row, count in zip(read, targets, strict=True) for token in row[1 : 1 + count]]
    given_tokens = [int(token) for row, count in zip(read, targets, strict=True) for token in row[:count]]
    assert predicted == expected[1:]
    assert given_tokens == expected[:-1]
    assert (targets[:-1] == length).all()
    assert (read[-1, 1 + targets[-1] :] == PAD).all()


def test_a_block_ends_where_the_next_begins(tmp_path: Path) -> None:
    blocks = pack(tmp_path / "x", [("a", list(range(10, 30)))], 5)
    read = blocks.read(np.array([0, 1, 2]))
    assert read[0, -1] == read[1, 0]
    assert read[1, -1] == read[2, 0]


@pytest.mark.parametrize(("vocab_size", "size"), [(65_536, 2), (65_537, 4)])
def test_the_smallest_type_that_holds_every_token(tmp_path: Path, vocab_size: int, size: int) -> None:
    assert stream_dtype(vocab_size).itemsize == size
    top = vocab_size - 1
    blocks = pack(tmp_path / "x", [("a", [top, 7])], 4, vocab_size)
    assert blocks.stream().tolist() == [BOS, top, 7, EOS]
    assert (tmp_path / "x" / STREAM).stat().st_size == size * (len(blocks) * 4 + 1)


def test_nothing_gives_no_blocks(tmp_path: Path) -> None:
    assert len(pack(tmp_path / "x", [], 4)) == 0
