"""Rows from files and datasets, each with its place, and the records that they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import UserError
from pipelines.corpus.config import JsonlSource
from pipelines.corpus.documents import BadInput
from pipelines.corpus.files import FoundFile, find_files
from pipelines.corpus.streams import bounded_lines, open_file, open_text
from pipelines.finetune.examples.config import AnyRows, HubData, hub_source, suffixes_of
from pipelines.finetune.examples.records import Example
from pipelines.finetune.examples.rows import BadRow, RowReader, detect, require_columns

ONE_OBJECT = 'write one object a line, for example {"prompt": "…", "completion": "…"}'
BATCH_ROWS = 512


@dataclass
class Read:
    """Records in the order of their rows.

    Attributes:
        form: what the rows are.
        bad: what was left out with ``bad_rows: skip``: place and reason of each.
    """

    form: str
    examples: list[Example] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def read_examples(data: AnyRows, where: str, wanted: tuple[str, ...]) -> Read:
    """All records of a source.

    Args:
        where: the recipe key, for messages.
        wanted: the forms that the caller can use.

    Raises:
        UserError: a file or row cannot be used (the message names both), or there are no rows.
        InfraError: S3 or the Hub does not answer.
    """
    reader: RowReader | None = None
    found: Read | None = None
    for place, row in rows_of(data):
        try:
            if isinstance(row, BadRow):
                raise row
            if reader is None or found is None:
                require_columns(row, data.fields, data.path)
                form = detect(row, data.fields) if data.form == "auto" else data.form
                if form not in wanted:
                    raise UserError(
                        f"the rows are {form}, and this method learns from {' or '.join(wanted)}",
                        where=place,
                        next_step=f"set {where}.form where they are something else, or choose another method",
                    )
                reader, found = RowReader(form, data.fields, data.system), Read(form)
            found.examples.append(reader.read(row, place))
        except BadRow as error:
            problem = error.as_user_error(place)
            if data.bad_rows == "refuse":
                raise problem from None
            found = found or Read(data.form)
            found.bad.append(f"{place}: {error.what}")
    if found is None or not found.examples:
        raise UserError("there is no example in it", where=data.path, next_step=f"check {where}")
    return found


def rows_of(data: AnyRows) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    """(place, row) of every row: the file's name inside the source with the line or row, counted from 1.

    Raises:
        UserError: a file or the dataset cannot be read.
        InfraError: S3 or the Hub does not answer.
    """
    if isinstance(data, HubData):
        yield from _hub_rows(data)
        return
    read = {"jsonl": _json_lines, "json": _json_list, "parquet": _parquet_rows}[data.kind]
    for file in find_files(data.path, suffixes_of(data)):
        if file.problem:
            raise UserError(file.problem, where=file.location, next_step="leave it out of the path")
        try:
            yield from read(file)
        except BadInput as error:
            raise UserError(error.what, where=file.location, next_step="restore the file, or leave it out") from None


def _json_lines(file: FoundFile) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    limits = JsonlSource(path=file.location)
    with open_text(file.location, limits) as stream:
        for line in bounded_lines(stream, limits.max_record_bytes):
            place = f"{file.name}:{line.number}"
            if line.data is None:
                yield place, BadRow(f"is over {limits.max_record_bytes:,} bytes long", "cut it into several")
            elif line.data.strip():
                yield place, _object(line.data)


def _object(data: bytes) -> Mapping[str, Any] | BadRow:
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return BadRow("is not UTF-8 text", "convert the file to UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(f"not valid JSON: {error}", ONE_OBJECT)
    return value if isinstance(value, dict) else BadRow("not a JSON object", ONE_OBJECT)


def _json_list(file: FoundFile) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    with open_text(file.location, JsonlSource(path=file.location)) as stream:
        try:
            values = json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadInput("not_json", f"not valid JSON: {error}") from None
    if not isinstance(values, list):
        raise BadInput("not_json", "is no JSON list of objects")
    for number, value in enumerate(values, start=1):
        yield f"{file.name}:{number}", value if isinstance(value, dict) else BadRow("not a JSON object", ONE_OBJECT)


def _parquet_rows(file: FoundFile) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with open_file(file.location) as stream:
        try:
            for batch in pq.ParquetFile(stream).iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file.name}:{number}", row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = str(error).splitlines()[0]
            raise BadInput("damaged", f"is no Parquet file, or damaged after row {number:,}: {said}") from None


def _hub_rows(data: HubData) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    from pipelines.corpus.read.hub import hub_rows, list_hub

    source = hub_source(data)
    for item in list_hub(source):
        try:
            for number, row in hub_rows(item, source):
                yield f"{item.path}:{number}", row
        except BadInput as error:
            raise UserError(error.what, where=f"{data.path} {item.path}", next_step="check the dataset") from None
