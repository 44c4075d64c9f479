"""What is kept of each document to find its duplicates: a table for each part, and its keys sorted for the shuffle.

The table's rows are those of the part's surviving documents. What it holds of the documents that stay is published
with the corpus, so that a corpus curated later can be compared with it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.store import Store, Written
from pipelines.corpus.table import decode, encode
from pipelines.curate.config import DedupConfig, MinHashConfig
from pipelines.curate.groups import ranked_type
from pipelines.curate.minhash import MinHasher, content_hash
from pipelines.curate.places import places, to_nodes
from pipelines.curate.runs import Run, RunWriter, pairs

CONTENT_BYTES = 16


def signature_schema(minhash: MinHashConfig | None) -> pa.Schema:
    """Columns of the table: ``bands`` are the band keys (8 bytes each, little-endian), null where a text has none."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("rank", pa.float64()),
            ("content", pa.binary(CONTENT_BYTES)),
            ("bands", pa.binary(8 * minhash.bands if minhash else 8)),
        ]
    )


@dataclass(frozen=True)
class Signed:
    """What one part has for the shuffle.

    Attributes:
        table_key: where the table is.
        exact: runs of :func:`ranked_type` by content hash; none where exact duplicates stay.
        bands: runs of PAIR, band key -> node; none where near-duplicates stay.
        id_bytes: the longest id.
        written: size and checksum of the table, where it was written here.
    """

    table_key: str
    exact: tuple[Run, ...]
    bands: tuple[Run, ...]
    id_bytes: int
    written: Written | None = None


@dataclass(frozen=True)
class TablePart:
    """A table and the number of its part among all, this corpus's and then those of corpora curated earlier."""

    number: int
    table_key: str


def sign(
    rows: Sequence[Mapping[str, Any]],
    positions: Sequence[int],
    part: int,
    config: DedupConfig,
    store: Store,
    key: str,
    kept: Mapping[str, Mapping[str, Any]] | None = None,
) -> Signed:
    """Write the table of a part's documents, and its runs, beside each other.

    Args:
        rows: the documents, in the order of their table.
        positions: where each stood in the corpus's part.
        key: of the table; the runs' keys begin with it.
        kept: id -> ``content`` and ``bands`` of documents that were signed before.
    """
    known = [kept.get(row["id"], {}) if kept else {} for row in rows]
    contents = [each.get("content") or content_hash(row["text"]) for row, each in zip(rows, known, strict=True)]
    ranks = [_rank(row, part, position, config) for row, position in zip(rows, positions, strict=True)]
    bands: list[bytes | None] = [each.get("bands") for each in known]
    unsigned = [number for number, each in enumerate(known) if "content" not in each]
    if config.minhash is not None and unsigned:
        hasher = _hasher(config.minhash)
        signatures, has = hasher.signatures([rows[number]["text"] for number in unsigned])
        keys = hasher.band_keys(signatures).astype("<u8")
        for number, own, given in zip(unsigned, keys, has, strict=True):
            bands[number] = own.tobytes() if given else None
    columns = {"id": [row["id"] for row in rows], "rank": ranks, "content": contents, "bands": bands}
    table = pa.table(columns, schema=signature_schema(config.minhash))
    written = store.write_summed(key, encode(table))
    return replace(_write_runs(table, TablePart(part, key), config, store, key), written=written)


def _write_runs(table: pa.Table, part: TablePart, config: DedupConfig, store: Store, prefix: str) -> Signed:
    """Sort the keys of a table for the shuffle."""
    exact, bands = (RunWriter(store, f"{prefix}.{kind}", config.memory_bytes) for kind in ("exact", "bands"))
    ids = _ids(table)
    place = places(part.number, np.arange(len(table), dtype=np.uint64))
    if config.exact:
        content = np.frombuffer(b"".join(table.column("content").to_pylist()), "<u8").reshape(-1, 2)
        made = np.zeros(len(table), ranked_type(ids.dtype.itemsize))
        made["key"], made["check"], made["place"] = content[:, 0], content[:, 1], place
        made["rank"], made["id"] = _ranks(table), ids
        exact.add(made)
    if config.minhash is not None:
        given = table.column("bands").is_valid().to_numpy()
        keys = np.frombuffer(b"".join(table.column("bands").drop_null().to_pylist()), "<u8")
        bands.add(pairs(keys, np.repeat(to_nodes(place[given]), config.minhash.bands)))
    return Signed(part.table_key, tuple(exact.close()), tuple(bands.close()), ids.dtype.itemsize)


def load_ranked(store: Store, key: str) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.float64]]:
    """Id and rank of every row of a table; those of a corpus curated earlier rank above all others."""
    table = decode(store.read(key))
    return _ids(table), _ranks(table)


def load_contents(store: Store, key: str) -> list[bytes]:
    """The content hash of every row of a table."""
    contents: list[bytes] = decode(store.read(key), columns=["content"]).column("content").to_pylist()
    return contents


def publish(store: Store, source_key: str, kept: Sequence[int], target_key: str) -> Written:
    """Write the signatures of the documents that stay, without their rank in this corpus."""
    table = decode(store.read(source_key)).take(pa.array(kept, pa.int64())).drop_columns(["rank"])
    return store.write_summed(target_key, encode(table))


def sign_earlier(part: TablePart, *, config: DedupConfig, store: Store, prefix: str) -> Signed:
    """Sort the keys of a published table for the shuffle."""
    table = decode(store.read(part.table_key))
    return _write_runs(table, part, config, store, f"{prefix}/{part.number:05d}")


def withdraw(store: Store, key: str, ids: Sequence[str]) -> Written | None:
    """Take documents that are not used after all out of a published table, so that nothing is compared with them.

    May be done again: a worker can die after it and before the part's result is written.

    Returns:
        size and checksum of the table that is left; None where nothing is.
    """
    if not store.exists(key):  # nothing was left of it the first time
        return None
    table = decode(store.read(key))
    unused = set(ids)
    left = table.filter(pa.array([name not in unused for name in table.column("id").to_pylist()], pa.bool_()))
    if left.num_rows:
        return store.write_summed(key, encode(left))
    store.delete(key)
    return None


def _rank(row: Mapping[str, Any], part: int, position: int, config: DedupConfig) -> float:
    """The greatest rank stays; equal ones are told by their ids."""
    if config.keep == "longest":
        return float(len(row["text"]))
    if config.keep == "first":
        return -float((part << 24) + position)  # whole numbers below 2^53
    score = row.get(config.score)
    if score is None:
        score = json.loads(row["metadata"]).get(config.score)
    if isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score):
        return float(score)
    return -math.inf


def _ranks(table: pa.Table) -> npt.NDArray[np.float64]:
    if "rank" in table.column_names:
        ranks: npt.NDArray[np.float64] = table.column("rank").to_numpy()
        return ranks
    return np.full(len(table), math.inf)


def _ids(table: pa.Table) -> npt.NDArray[np.bytes_]:
    ids = [each.encode("utf-8") for each in table.column("id").to_pylist()]
    return np.array(ids, f"S{max(map(len, ids), default=1) or 1}")


@functools.cache
def _hasher(config: MinHashConfig) -> MinHasher:
    return MinHasher(config)
