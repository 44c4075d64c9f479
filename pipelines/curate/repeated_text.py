"""Lines or paragraphs that were seen before in the corpus, found by 64-bit hashes of their text without outer blanks.

Of equal ones the one in the document with the smallest id stays, within that the first. Only hashes are shuffled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import xxhash

from cluster.store import Store
from pipelines.corpus.table import decode
from pipelines.curate.config import RepeatedTextConfig
from pipelines.curate.decisions import Decisions
from pipelines.curate.groups import Winners, ranked_type
from pipelines.curate.match import MARK
from pipelines.curate.places import MOST_LINES, places
from pipelines.curate.runs import RangePart, Run, RunWriter, read_twice
from pipelines.curate.signatures import TablePart

_PARAGRAPH = re.compile(r"(\n[^\S\n]*\n\s*)")
_LINE = re.compile(r"(\n)")


def cut(text: str, config: RepeatedTextConfig) -> Iterator[tuple[int, str, str]]:
    """The passages of a text: number, text, and what stands between it and the next."""
    pieces = (_PARAGRAPH if config.unit == "paragraph" else _LINE).split(text)
    for number, at in enumerate(range(0, len(pieces), 2)):
        yield number, pieces[at], pieces[at + 1] if at + 1 < len(pieces) else ""


def passage_part(
    part: TablePart,
    *,
    decisions: Decisions,
    config: RepeatedTextConfig,
    id_bytes: int,
    store: Store,
    prefix: str,
    memory_bytes: int,
) -> list[Run]:
    """Hash the passages of the documents that stay; a document's passages after the first million are left alone."""
    writer = RunWriter(store, f"{prefix}/{part.number:05d}", memory_bytes)
    goes = decisions.load(store, part.number)
    table = decode(store.read(part.table_key), columns=["id", "text"])
    for row, (name, text) in enumerate(_id_and_text(table)):
        if row in goes:
            continue
        found = [
            (xxhash.xxh64_intdigest(stripped.encode("utf-8", "surrogatepass")), number)
            for number, passage, _ in cut(text, config)
            if number < MOST_LINES and len(stripped := passage.strip()) >= config.min_characters
        ]
        if found:
            records = np.zeros(len(found), ranked_type(id_bytes))
            records["key"] = np.array([each for each, _ in found], np.uint64)
            records["place"] = places(part.number, row, np.array([number for _, number in found], np.uint64))
            records["id"] = name.encode("utf-8")
            writer.add(records)
    return writer.close()


def repeat_range(
    part: RangePart, *, passages: Sequence[Run], store: Store, prefix: str, memory_bytes: int
) -> list[Run]:
    """Mark the places of all passages of a range but the first of equal ones."""
    writer = RunWriter(store, f"{prefix}/{part.number:05d}", memory_bytes)
    read = read_twice(store, passages, part.keys, memory_bytes)
    first = Winners(read())
    for batch in read():
        repeats = first.places[first.index(batch)] != batch["place"]
        writer.add(batch["place"][repeats].astype(MARK))
    return writer.close()


def without(text: str, numbers: frozenset[int], config: RepeatedTextConfig) -> tuple[str, int]:
    """The text without some of its passages, and the characters that this took out of them."""
    kept = []
    removed = 0
    for number, passage, gap in cut(text, config):
        if number in numbers:
            removed += len(passage)
        else:
            kept.append(passage + gap)
    return ("".join(kept).rstrip("\n") if removed else text), removed


def _id_and_text(table: pa.Table) -> Iterator[tuple[str, str]]:
    for batch in table.to_batches(max_chunksize=256):
        yield from zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True)
