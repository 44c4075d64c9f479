"""An encoding that was killed anywhere continues, and gives the bytes that it would have given."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.attempt import Attempt
from cluster.store import Store, open_store
from pipelines.tokens.encode import EncodedBatch
from pipelines.tokens.ledger import FILE, Ledger, take_over
from pipelines.tokens.packing import DOCUMENTS, STREAM, Packer
from pipelines.tokens.stage import _restore
from pipelines.tokens.statistics import CorpusStatistics

IDS: dict[str, Any] = {"bos_id": 0, "eos_id": 1, "pad_id": 2}


def batches(sizes: list[list[int]]) -> list[EncodedBatch]:
    """Batches of documents of so many tokens; every third is held out."""
    numbers = itertools.count()
    found = []
    for lengths in sizes:
        names = [next(numbers) for _ in lengths]
        found.append(
            EncodedBatch(
                around=2,
                splits=["train" if number % 3 else "validation" for number in names],
                ids=[f"d{number}" for number in names],
                sources=["s"] * len(names),
                languages=["en"] * len(names),
                text_bytes=np.asarray(lengths) * 4,
                words=np.asarray(lengths),
                lengths=np.asarray(lengths),
                tokens=np.concatenate(
                    [np.arange(number, number + length) for number, length in zip(names, lengths, strict=True)]
                ).astype(np.uint32),
            )
        )
    return found


class Encoding:
    """One try: packers, ledger and statistics over a folder."""

    def __init__(self, output: Path, spool: Path) -> None:
        self.folders = {split: output / split for split in ("train", "validation")}
        for folder in self.folders.values():
            folder.mkdir(parents=True)
        self.packers = {
            split: Packer(folder, vocab_size=70_000, scratch=spool / f"{split}.bin", **IDS)
            for split, folder in self.folders.items()
        }
        self.ledger, self.statistics = Ledger(spool, 2), CorpusStatistics()
        self.done = set(_restore(self.ledger, self.packers, self.statistics))

    def take(self, batch: EncodedBatch) -> None:
        start = 0
        for split, name, length in zip(batch.splits, batch.ids, batch.lengths, strict=True):
            self.packers[split].add(name, batch.tokens[start : start + length])
            start += length
        for packer in self.packers.values():
            packer.flush()
        self.ledger.write(batch)
        self.statistics.add(batch)

    def finish(self) -> list[Any]:
        indexes = [packer.finish(4) for packer in self.packers.values()]
        files = [(folder / name).read_bytes() for folder in self.folders.values() for name in (STREAM, DOCUMENTS)]
        return [indexes, files, self.statistics.by_split, self.statistics.length_histogram()]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(0, 6),
    st.integers(0, 400),
    st.sampled_from(["ledger", "train", "validation", "nothing"]),
)
@example([[2, 2]], 1, 1, "train")  # one split's file is whole, the other's is not: neither counts
def test_it_continues_wherever_it_was_killed(
    tmp_path_factory: Any, sizes: list[list[int]], stop: int, lost: int, where: str
) -> None:
    """Killed after some batches, and then the last bytes of a file may be missing, or rubbish follow."""
    folder = tmp_path_factory.mktemp("encode")
    everything = batches(sizes)
    for name in ("spool", "whole"):
        (folder / name).mkdir()
    undisturbed = Encoding(folder / "expected", folder / "whole")
    for batch in everything:
        undisturbed.take(batch)
    expected = undisturbed.finish()

    first = Encoding(folder / "first", folder / "spool")
    for batch in everything[:stop]:
        first.take(batch)
    path = folder / "spool" / (FILE if where == "ledger" else f"{where}.bin")
    if where != "nothing" and path.exists():
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - lost] if lost % 2 and lost <= len(data) else data + b"{" * (lost // 2))
    second = Encoding(folder / "second", folder / "spool")
    assert where != "nothing" or second.done == {name for batch in everything[:stop] for name in batch.ids}
    for batch in everything:
        if not second.done >= set(batch.ids):
            assert not second.done & set(batch.ids)  # batches count as a whole
            second.take(batch)
    # Killed once more now, it would have nothing left to do: what followed the last whole line is gone.
    named = [name for batch in Ledger(folder / "spool", 2).batches() for name in batch.ids]
    assert sorted(named) == sorted(name for batch in everything for name in batch.ids)
    assert second.finish() == expected


def test_the_next_try_takes_over_what_an_ended_one_left(tmp_path: Path) -> None:
    store: Store = open_store(tmp_path / "store")
    with Attempt(store, "Tokens/tokens-000000000000") as first:
        place = take_over(store, first)
        assert place is not None
        (place / FILE).write_text("{}\n")
        with Attempt(store, "Tokens/tokens-000000000000") as rival:
            theirs = take_over(store, rival)
            assert theirs is not None
            assert not (theirs / FILE).exists()  # the first is still at work
    with Attempt(store, "Tokens/tokens-000000000000") as second:
        mine = take_over(store, second)
        assert mine is not None
        assert (mine / FILE).read_text() == "{}\n"
        assert not place.exists()
    with Attempt(store, "Tokens/tokens-000000000000", fresh=True) as forced:
        anew = take_over(store, forced)
        assert anew is not None
        assert not (anew / FILE).exists()


def test_a_store_without_folders_has_nothing_to_take_over(s3_store: Store) -> None:
    with Attempt(s3_store, "Tokens/tokens-000000000000") as attempt:
        assert take_over(s3_store, attempt) is None
