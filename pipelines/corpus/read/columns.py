"""Parquet files, a few rows at a time; a large file is read in several runs of row groups at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import RaymillError
from pipelines.corpus.config import ParquetSource
from pipelines.corpus.documents import BadInput, Item, Outcome, Problem
from pipelines.corpus.read.fields import to_document
from pipelines.corpus.source import SourceBase
from pipelines.corpus.streams import open_file

_BATCH_BYTES = 4 << 20
_MOST_ROWS = 512


def read_parquet(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """A document for each row, ``path:row`` counted from 1 in the file. Only the columns that are needed are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert isinstance(source, ParquetSource)
    with open_file(item.location) as stream:
        try:
            file = pq.ParquetFile(stream, buffer_size=1 << 20)
            if source.text_field in _plain_columns(file.metadata.schema):
                # Read as it is stored: a text that is repeated a million times is held once.
                file = pq.ParquetFile(stream, buffer_size=1 << 20, read_dictionary=[source.text_field])
            groups = range(*(item.span or (0, file.num_row_groups)))
            columns = _columns(file.schema_arrow.names, source)
            before = sum(file.metadata.row_group(each).num_rows for each in range(groups.start))
            for group in groups:
                yield from _group(file, group, columns, before, item, source)
                before += file.metadata.row_group(group).num_rows
        except RaymillError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadInput("damaged", f"is no Parquet file, or a damaged one: {str(error).splitlines()[0]}") from None


def _plain_columns(schema: Any) -> set[str]:
    return {schema.column(index).path for index in range(len(schema))}


def _columns(names: list[str], source: ParquetSource) -> list[str] | None:
    top = source.text_field if source.text_field in names else source.text_field.partition(".")[0]
    if top not in names:
        known = ", ".join(names[:20])[:300]
        raise BadInput("no_text_field", f"has no column {source.text_field!r} but {known!r}")
    if source.metadata_fields is None:
        return None
    wanted = [source.text_field, source.id_field, source.licence_field, source.language_field, *source.metadata_fields]
    tops = {name if name in names else name.partition(".")[0] for name in wanted if name}
    return [name for name in names if name in tops]


def _group(
    file: Any, group: int, columns: list[str] | None, before: int, item: Item, source: ParquetSource
) -> Iterator[Outcome]:
    about = file.metadata.row_group(group)
    mean = max(about.total_byte_size // max(about.num_rows, 1), 1)
    rows = max(1, min(_MOST_ROWS, _BATCH_BYTES // mean))
    number = before
    for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
        names = batch.schema.names
        for index in range(batch.num_rows):
            number += 1
            yield _row(batch, names, index, f"{item.path}:{number}", number, item, source)


def _row(
    batch: Any, names: list[str], index: int, path: str, number: int, item: Item, source: ParquetSource
) -> Outcome:
    record: dict[str, Any] = {}
    for name, column in zip(names, batch.columns, strict=True):
        cell = column[index]
        size = getattr(cell.value if hasattr(cell, "dictionary") else cell, "as_buffer", lambda: b"")() or b""
        if len(memoryview(size)) > source.max_record_bytes:
            return Problem(path, f"its {name!r} is over {source.max_record_bytes:,} bytes", "too_large")
        try:
            record[name] = cell.as_py()
        except (UnicodeDecodeError, ValueError, OverflowError) as error:
            return Problem(path, f"its {name!r} cannot be read: {error}", "not_utf8")
    return to_document(record, source, item, path, {"row": number})
