"""Encode documents with Ray Data. Every document is encoded by itself, so that the layout changes nothing."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipelines.corpus.parts import default_workers, map_parts
from pipelines.tokens.folder import corpus_encoder
from pipelines.tokens.marks import Marks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from cluster.artifact import Artifact
    from cluster.store import Store

SPLITS = ("train", "validation")
COLUMNS = ("id", "text", "source", "language")
PARTS_FOR_A_WORKER = 16
SMALLEST_SHARE_BYTES, LARGEST_SHARE_BYTES = 1 << 18, 4 << 20
"""Of a stored file."""


@dataclass(frozen=True)
class EncodedBatch:
    """Documents of one part: aligned columns, the tokens one after another with ``bos`` and ``eos`` around each.

    Attributes:
        around: how many of a document's tokens are such marks.
    """

    around: int
    splits: list[str]
    ids: list[str]
    sources: list[str]
    languages: list[str]
    text_bytes: np.ndarray[Any, Any]
    words: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """One of ``shares`` equal shares of a file's documents."""

    path: str
    shares: int
    which: int


def encode_splits(
    store: Store,
    corpus: Artifact,
    tokenizer_json: str,
    marks: Marks,
    workers: int | None = None,
    done: Sequence[str] = (),
) -> Iterator[EncodedBatch]:
    """The curated corpus's documents, encoded, in whatever order they become ready.

    Args:
        workers: tasks at the same time; by default one for each core.
        done: ids of documents to leave out.
    """
    workers = workers or default_workers()
    encode = functools.partial(
        encode_part,
        store=store,
        corpus=corpus,
        tokenizer=ray.put(tokenizer_json),
        marks=marks,
        done=ray.put(pa.array(done, pa.string())) if done else None,
    )
    for batch in map_parts(encode, parts_of(corpus, workers), workers):
        if batch.ids:
            yield batch


def parts_of(corpus: Artifact, workers: int) -> list[Part]:
    """The corpus in parts small enough for workers to end together, and large enough for a driver to count.

    A worker reads a whole file for its share of it, which costs a hundredth of encoding it: shares are few.
    """
    sizes = {entry.path: entry.size_bytes for entry in corpus.files}
    paths = parquet_files(corpus)
    share = sum(sizes[path] for path in paths) / (PARTS_FOR_A_WORKER * workers)
    share = min(max(share, SMALLEST_SHARE_BYTES), LARGEST_SHARE_BYTES)
    counts = {path: max(math.ceil(sizes[path] / share), 1) for path in paths}
    return [Part(path, counts[path], which) for path in paths for which in range(counts[path])]


def parquet_files(corpus: Artifact) -> list[str]:
    """Paths of the curated corpus's documents, both splits, in order."""
    return sorted(
        entry.path for entry in corpus.files if entry.path.split("/")[0] in SPLITS and entry.path.endswith(".parquet")
    )


def encode_part(
    part: Part, *, store: Store, corpus: Artifact, tokenizer: ray.ObjectRef, marks: Marks, done: ray.ObjectRef | None
) -> EncodedBatch:
    """Encode a part, on a worker.

    Args:
        tokenizer: Ray's reference to the text of ``tokenizer.json``.
        done: Ray's reference to ids of documents to leave out.
    """
    table = _documents(store, corpus.key(part.path), held=part.shares > 1)
    first, end = (len(table) * number // part.shares for number in (part.which, part.which + 1))
    table = table.slice(first, end - first)
    if done is not None:
        table = table.filter(pc.invert(pc.is_in(table["id"], value_set=ray.get(done))))
    return encode_table(table, part.path.split("/")[0], ray.get(tokenizer), marks)


_held: dict[str, pa.Table] = {}
"""The documents of the file that this process read last, where more shares of it may come."""


def _documents(store: Store, key: str, *, held: bool) -> pa.Table:
    uri = store.uri(key)
    if uri in _held:
        return _held[uri]
    filesystem, place = store.arrow(key)
    table = pq.read_table(place, filesystem=filesystem, columns=list(COLUMNS), partitioning=None, use_threads=False)
    table = table.set_column(table.schema.get_field_index("id"), "id", table["id"].cast(pa.string()))
    _held.clear()
    if held:
        _held[uri] = table
    return table


def encode_table(table: pa.Table, split: str, tokenizer_json: str, marks: Marks) -> EncodedBatch:
    """Documents of a split, in columns ``id``, ``text``, ``source`` and ``language``, encoded."""
    texts = table["text"].to_pylist()
    tokens, offsets = encode_texts(_encoder(tokenizer_json), texts, marks)
    return EncodedBatch(
        around=marks.around,
        splits=[split] * len(texts),
        ids=table["id"].to_pylist(),
        sources=table["source"].to_pylist(),
        languages=table["language"].to_pylist(),
        text_bytes=pc.binary_length(table["text"]).cast(pa.int64()).to_numpy(),
        words=np.fromiter((len(text.split()) for text in texts), np.int64, len(texts)),
        lengths=np.diff(offsets),
        tokens=tokens,
    )


def encode_texts(
    encoder: Tokenizer, texts: list[str], marks: Marks
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The tokens of all texts one after another, and the n + 1 offsets at which each begins and ends."""
    encodings = encoder.encode_batch_fast(texts, add_special_tokens=False)
    # An array takes a list of whole numbers six times faster than numpy does.
    tokens, offsets = array("I"), np.zeros(len(texts) + 1, np.int64)
    for place, encoding in enumerate(encodings, 1):
        if marks.bos is not None:
            tokens.append(marks.bos)
        tokens.fromlist(encoding.ids)
        tokens.append(marks.eos)
        offsets[place] = len(tokens)
    return np.frombuffer(tokens, np.uint32), offsets


@functools.lru_cache(maxsize=2)
def _encoder(tokenizer_json: str) -> Tokenizer:
    return corpus_encoder(tokenizer_json)
