"""The corpus table on disk: its columns, and files whose bytes depend on the rows alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.documents import Document, document_id

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("licence", pa.string()),
        ("metadata", pa.string()),
        ("language", pa.string()),
    ]
)
"""``language`` is what the source declares, null where it says nothing; curation finds out for itself."""

QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("place", pa.string()),
        ("reason", pa.string()),
        ("what", pa.string()),
        ("first_bytes", pa.binary()),
    ]
)
ROWS_IN_GROUP = 1000


def part_name(folder: str, number: int) -> str:
    """The name of one file of a table: ``folder/part-00000.parquet``."""
    return f"{folder}/part-{number:05d}.parquet"


def chunk_name(folder: str, part: int, chunk: int) -> str:
    """The name of one of the files that a part is written to: ``folder/part-00000-000.parquet``."""
    return f"{folder}/part-{part:05d}-{chunk:03d}.parquet"


def to_table(documents: Iterable[Document], source: str) -> pa.Table:
    """Documents as rows of SCHEMA, in their order."""
    rows = [
        {
            "id": document_id(source, each.path),
            "text": each.text,
            "source": source,
            "path": each.path,
            "licence": each.licence,
            "metadata": encode_metadata(each.metadata),
            "language": each.language,
        }
        for each in documents
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def encode_metadata(metadata: Mapping[str, Any]) -> str:
    """Metadata as canonical JSON text."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def encode(table: pa.Table) -> bytes:
    """The table as a Parquet file (zstd), the same bytes for the same rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROWS_IN_GROUP)
    return sink.getvalue()


def decode(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The rows of a Parquet file given as bytes."""
    return pq.read_table(io.BytesIO(data), columns=columns)
