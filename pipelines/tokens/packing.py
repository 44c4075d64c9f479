"""Packing: documents in a fixed order become one stream, and the stream is cut into blocks of one length.

A document is its tokens between ``bos`` and ``eos``. Documents follow each other by a stable hash of their ids, so
that neighbours come from different sources and the stream is the same however the input was split up. Block ``k``
predicts stream positions ``kL+1 … kL+L`` from ``kL … kL+L-1``: every token but the first is predicted exactly once.
Only the last block may be filled up with ``pad``. Documents' starts are kept, so that attention or positions can be
reset at them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

STREAM = "tokens.bin"
DOCUMENTS = "documents.parquet"
INDEX = "index.json"
FORMAT = 1


@dataclass(frozen=True)
class BlockIndex:
    """What ``index.json`` says of one split.

    Attributes:
        sequence_length: tokens a block predicts.
        blocks: number of blocks; the stream file holds ``blocks * sequence_length + 1`` numbers.
        tokens: tokens of the documents, ``bos`` and ``eos`` included, padding not.
        documents: number of documents.
        dtype: numpy name of the numbers in the stream file, little-endian.
        vocab_size: size of the vocabulary; every token is below it.
        bos_id: what each document begins with; None for a tokenizer without such a token.
        pad_id: what the last block is filled up with.
    """

    sequence_length: int
    blocks: int
    tokens: int
    documents: int
    dtype: str
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    format: int = FORMAT


def order_key(document_id: str) -> int:
    """The place of a document in the stream: XXH64 of its id; ids themselves settle ties."""
    return xxhash.xxh64_intdigest(document_id.encode("utf-8"))


def stream_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds every token."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class Packer:
    """Takes encoded documents in any order and writes one split's folder.

    Memory holds a few numbers a document; tokens go to a scratch file as they come and are put in order at the end.

    Args:
        folder: where the split's files go; it must exist.
        scratch: the scratch file, by default in that folder. What it holds counts only as far as :meth:`restore` says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        vocab_size: int,
        bos_id: int | None,
        eos_id: int,
        pad_id: int,
        scratch: Path | None = None,
    ) -> None:
        self._folder = folder
        self._dtype = stream_dtype(vocab_size)
        self._ids: dict[str, Any] = {"bos_id": bos_id, "eos_id": eos_id, "pad_id": pad_id}
        self._vocab_size = vocab_size
        self._scratch_path = scratch or folder / ".scratch"
        self._scratch = self._scratch_path.open("ab")
        self._documents: list[tuple[int, str, int, int]] = []
        self._written = 0

    def restore(self, documents: Iterable[tuple[str, int]]) -> bool:
        """Go on after documents whose tokens the scratch file holds already, and forget what follows them.

        Args:
            documents: ids and lengths in the order of writing.

        Returns:
            whether the file holds that much; if not, nothing of it is used.
        """
        self._documents, place = [], 0
        for document_id, length in documents:
            self._documents.append((order_key(document_id), document_id, place, length))
            place += length
        whole = self._scratch_path.stat().st_size >= place * self._dtype.itemsize
        if not whole:
            self._documents, place = [], 0
        self._scratch.truncate(place * self._dtype.itemsize)
        self._written = place
        return whole

    def flush(self) -> None:
        """Hand what was added to the operating system, where it survives the end of this process."""
        self._scratch.flush()

    def add(self, document_id: str, tokens: np.ndarray[Any, Any]) -> None:
        """One document: its tokens with ``bos`` and ``eos``."""
        self._scratch.write(tokens.astype(self._dtype).tobytes())
        self._documents.append((order_key(document_id), document_id, self._written, len(tokens)))
        self._written += len(tokens)

    def finish(self, sequence_length: int) -> BlockIndex:
        """Write the split's stream, document starts and index."""
        self._scratch.close()
        blocks = -(-max(self._written - 1, 0) // sequence_length)
        index = BlockIndex(
            sequence_length=sequence_length,
            blocks=blocks,
            tokens=self._written,
            documents=len(self._documents),
            dtype=self._dtype.str.lstrip("<"),
            vocab_size=self._vocab_size,
            **self._ids,
        )
        self._documents.sort()
        starts = self._write_stream(blocks * sequence_length + 1)
        table = pa.table(
            {
                "id": pa.array([each[1] for each in self._documents], pa.string()),
                "start": pa.array(starts, pa.int64()),
                "tokens": pa.array([each[3] for each in self._documents], pa.int64()),
            }
        )
        pq.write_table(table, self._folder / DOCUMENTS)
        self._scratch_path.unlink()
        text = json.dumps(asdict(index), indent=1, sort_keys=True)
        (self._folder / INDEX).write_text(text, encoding="utf-8")
        return index

    def _write_stream(self, length: int) -> list[int]:
        scratch = (
            np.memmap(self._scratch_path, dtype=self._dtype, mode="r") if self._written else np.empty(0, self._dtype)
        )
        starts = []
        position = 0
        with (self._folder / STREAM).open("wb") as stream:
            for _, _, start, count in self._documents:
                starts.append(position)
                stream.write(scratch[start : start + count].tobytes())
                position += count
            filling = max(length - position, 0)
            stream.write(np.full(filling, self._ids["pad_id"], self._dtype).tobytes())
        return starts


class TokenBlocks:
    """The blocks of one split, read from memory-mapped files.

    Args:
        folder: the split's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = BlockIndex(**json.loads((folder / INDEX).read_text(encoding="utf-8")))
        dtype = np.dtype(self.index.dtype).newbyteorder("<")
        self._stream = np.memmap(folder / STREAM, dtype=dtype, mode="r")
        self._starts: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return self.index.blocks

    def read(self, blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Blocks by number, as int64 of shape [n, sequence_length + 1]; the last token of one is the next's first."""
        length = self.index.sequence_length
        positions = np.asarray(blocks, np.int64)[:, None] * length + np.arange(length + 1)
        return self._stream[positions].astype(np.int64)

    def targets(self, blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """How many tokens each block predicts: its length, less the padding of the last one."""
        length = self.index.sequence_length
        left = self.index.tokens - 1 - np.asarray(blocks, np.int64) * length
        return np.clip(left, 0, length)

    def lengths(self, blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """How many of each block's first ``sequence_length`` tokens are not padding."""
        length = self.index.sequence_length
        return np.clip(self.index.tokens - np.asarray(blocks, np.int64) * length, 0, length)

    def documents(self, blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Which document each of a block's first ``sequence_length`` tokens belongs to, int64 [n, sequence_length].

        Padding belongs to one beyond the last.
        """
        positions = self._positions(blocks)
        found = np.searchsorted(self.document_starts(), positions, side="right") - 1
        found[positions >= self.index.tokens] = self.index.documents
        return found

    def positions(self, blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Each token's place in its document, counted from where that begins within the block; as ``documents``."""
        documents = self.documents(blocks)
        edges = np.append(self.document_starts(), self.index.tokens)
        begins = np.maximum(edges[documents], self._positions(blocks)[:, :1])
        return self._positions(blocks) - begins

    def _positions(self, blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        length = self.index.sequence_length
        return np.asarray(blocks, np.int64)[:, None] * length + np.arange(length)

    def stream(self) -> np.ndarray[Any, Any]:
        """The documents' tokens one after another, without padding."""
        return self._stream[: self.index.tokens]

    def document_starts(self) -> np.ndarray[Any, Any]:
        """Stream positions at which documents begin, rising."""
        if self._starts is None:
            self._starts = np.asarray(pq.read_table(self.folder / DOCUMENTS, columns=["start"])["start"].to_numpy())
        return self._starts
