"""Encode documents with Ray Data. Every batch is encoded by itself, so that the layout changes nothing."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipelines.tokens.folder import corpus_encoder
from pipelines.tokens.marks import Marks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from cluster.artifact import Artifact
    from cluster.store import Store

SPLITS = ("train", "validation")
COLUMNS = ("id", "text", "source", "language")


@dataclass(frozen=True)
class EncodedBatch:
    """Documents of one block: aligned columns, the tokens one after another with ``bos`` and ``eos`` around each.

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
        done: ids of documents to leave out.
    """
    paths = parquet_files(corpus)
    keys = [corpus.key(path) for path in paths]
    filesystem = store.arrow(corpus.data_prefix)[0]
    dataset = ray.data.read_parquet(
        [store.arrow(key)[1] for key in keys],
        filesystem=filesystem,
        include_paths=True,
        override_num_blocks=block_count(sum(entry.size_bytes for entry in corpus.files if entry.path in paths)),
    ).select_columns([*COLUMNS, "path"])
    encoded = dataset.map_batches(
        encode_table,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={
            "tokenizer": ray.put(tokenizer_json),
            "marks": marks,
            "done": ray.put(pa.array(done, pa.string())) if done else None,
        },
        concurrency=workers,
    )
    for table in encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        if table.num_rows:
            yield _unpack(table, marks.around)


def block_count(stored_bytes: int) -> int:
    """In how many blocks to read so much Parquet: of about 1 MiB, and where that were more than 2,000, up to 64 MiB.

    Left to itself Ray Data reads a small corpus as one block, which one core then encodes.
    """
    return max(1, min(stored_bytes >> 20, 2000), stored_bytes >> 26)


def parquet_files(corpus: Artifact) -> list[str]:
    """Paths of the curated corpus's documents, both splits, in order."""
    return sorted(
        entry.path for entry in corpus.files if entry.path.split("/")[0] in SPLITS and entry.path.endswith(".parquet")
    )


def encode_table(table: pa.Table, tokenizer: Any, marks: Marks, done: Any = None) -> pa.Table:
    """Columns ``id``, ``text``, ``source``, ``language``, ``path`` to encoded documents; ``tokens`` is a list column.

    Args:
        tokenizer: the text of ``tokenizer.json``, or Ray's reference to it.
        done: Ray's reference to ids of documents to leave out.
    """
    if done is not None:
        table = table.filter(pc.invert(pc.is_in(table["id"].cast(pa.string()), value_set=ray.get(done))))
    encoder = _encoder(ray.get(tokenizer) if isinstance(tokenizer, ray.ObjectRef) else tokenizer)
    texts = table["text"].to_pylist()
    tokens, offsets = encode_texts(encoder, texts, marks)
    return pa.table(
        {
            "split": pa.array([_split_of(path) for path in table["path"].to_pylist()], pa.string()),
            "id": table["id"].cast(pa.string()),
            "source": table["source"].cast(pa.string()),
            "language": table["language"].cast(pa.string()),
            "bytes": pc.binary_length(table["text"]).cast(pa.int64()),
            "words": pa.array([len(text.split()) for text in texts], pa.int64()),
            "tokens": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(tokens, pa.uint32())),
        }
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


@lru_cache(maxsize=2)
def _encoder(tokenizer_json: str) -> Tokenizer:
    return corpus_encoder(tokenizer_json)


def _split_of(path: str) -> str:
    return path.rsplit("/", 2)[-2]


def _unpack(table: pa.Table, around: int) -> EncodedBatch:
    lists = table["tokens"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0)
    offsets = lists.offsets.to_numpy()
    return EncodedBatch(
        around=around,
        splits=table["split"].to_pylist(),
        ids=table["id"].to_pylist(),
        sources=table["source"].to_pylist(),
        languages=table["language"].to_pylist(),
        text_bytes=table["bytes"].to_numpy(),
        words=table["words"].to_numpy(),
        lengths=np.diff(offsets),
        tokens=lists.values.to_numpy()[offsets[0] : offsets[-1]],
    )
