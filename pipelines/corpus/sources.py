"""The kinds of source: how each is listed and what identifies its content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.store import Store
from pipelines.corpus import installed
from pipelines.corpus.config import (
    CorpusConfig,
    CsvSource,
    CustomSource,
    HfSource,
    HtmlSource,
    JsonlSource,
    ParquetSource,
    PdfSource,
    PythonDocsSource,
    TextSource,
    WarcSource,
    WetSource,
)
from pipelines.corpus.documents import Item, stable_order
from pipelines.corpus.files import COMPRESSED, FoundFile, content_digest, find_files
from pipelines.corpus.read.custom import load_function
from pipelines.corpus.source import FileSource, SourceBase

NOT_IDENTITY = {"path", "weight"}
"""Where the files are does not change the corpus, and weights change the mixture only."""


@dataclass(frozen=True)
class SourceKind:
    """What the corpus stage asks of a kind of source.

    Attributes:
        list_items: the source's items, in the order in which they are taken, given the part size; raises UserError.
        identity: plain JSON values that change whenever the text would, and name no place; raises UserError.
    """

    list_items: Callable[[Any, int], list[Item]]
    identity: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class FileForm:
    """How a kind of file is found and weighed.

    Attributes:
        form: the reader's name.
        suffixes: names that a folder is searched for.
        text_share: about how many bytes of text a byte of a file that is not compressed gives.
    """

    form: str
    suffixes: tuple[str, ...]
    text_share: float = 1.0


FORMS: dict[type[SourceBase], FileForm] = {
    TextSource: FileForm("text", (".txt", ".md", ".markdown")),
    HtmlSource: FileForm("html", (".html", ".htm", ".xhtml"), 0.2),
    PdfSource: FileForm("pdf", (".pdf",), 0.1),
    JsonlSource: FileForm("jsonl", (".jsonl", ".ndjson")),
    ParquetSource: FileForm("parquet", (".parquet",), 2.0),
    CsvSource: FileForm("csv", (".csv", ".tsv")),
    WarcSource: FileForm("warc", (".warc",), 0.2),
    WetSource: FileForm("wet", (".wet",)),
}
_UNPACKS_TO = 4
_LOOKING_INSIDE = 16


def _list_files(source: FileSource, part_bytes: int) -> list[Item]:
    form = FORMS[type(source)]
    files = find_files(source.path, form.suffixes)
    with ThreadPoolExecutor(_LOOKING_INSIDE) as pool:  # large files are opened, which takes its time in S3
        found = pool.map(lambda file: list(_items(file, form, source, part_bytes)), files)
        items = [item for each in found for item in each]
    return sorted(items, key=lambda item: (stable_order(item.path), item.span or (0, 0)))


def _items(file: FoundFile, form: FileForm, source: FileSource, part_bytes: int) -> Iterator[Item]:
    """The file as one item, or in ranges of about ``part_bytes`` where it is large and can be cut."""
    if file.problem:
        yield Item("unusable", file.name, file.location, 0, source.licence)
        return
    share = form.text_share * (_UNPACKS_TO if file.name.lower().endswith(COMPRESSED) else 1)
    about = {**source.metadata, "kind": form.form}
    spans = _spans(file, form.form, part_bytes) if file.size_bytes > 2 * part_bytes else []
    ranges: list[tuple[tuple[int, int] | None, int]] = [*spans] or [(None, file.size_bytes)]
    for span, size in ranges:
        yield Item(form.form, file.name, file.location, int(size * share), source.licence, about, span)


def _spans(file: FoundFile, form: str, part_bytes: int) -> list[tuple[tuple[int, int], int]]:
    """((first, end), bytes) of the ranges that a large file is read in; none where it is read as a whole."""
    from pipelines.corpus.streams import open_file
    from pipelines.corpus.unpacking import compression

    if form not in ("jsonl", "parquet"):
        return []
    with open_file(file.location) as stream:
        if form == "parquet":
            return _row_groups(stream, part_bytes)
        if compression(stream.read(6)) is not None:
            return []
    starts = range(0, file.size_bytes, part_bytes)
    ends = [min(start + part_bytes, file.size_bytes) for start in starts]
    return [((start, end), end - start) for start, end in zip(starts, ends, strict=True)]


def _row_groups(stream: Any, part_bytes: int) -> list[tuple[tuple[int, int], int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(stream)
    except (pa.ArrowException, OSError):
        return []  # the reader meets the same and says so
    spans = []
    first = size = 0
    for group in range(about.num_row_groups):
        columns = about.row_group(group)
        size += sum(columns.column(each).total_compressed_size for each in range(columns.num_columns))
        if size >= part_bytes or group == about.num_row_groups - 1:
            spans.append(((first, group + 1), size))
            first, size = group + 1, 0
    return spans


def _file_identity(source: FileSource) -> dict[str, Any]:
    files = find_files(source.path, FORMS[type(source)].suffixes)
    return {
        "files": len(files),
        "bytes": sum(each.size_bytes for each in files),
        "content_sha256": content_digest(files),
    }


def _list_hub(source: HfSource, _: int) -> list[Item]:
    from pipelines.corpus.read.hub import list_hub

    return list_hub(source)


def _hub_identity(source: HfSource) -> dict[str, Any]:
    from pipelines.corpus.read.hub import hub_identity

    return hub_identity(source)


def _list_custom(source: CustomSource, part_bytes: int) -> list[Item]:
    about = {**source.metadata, "kind": "custom"}
    return [
        Item("custom", f"{source.function}/{shard:05d}", str(shard), part_bytes, source.licence, about)
        for shard in range(source.shards)
    ]


_FILES = SourceKind(_list_files, _file_identity)
SOURCES: dict[type[SourceBase], SourceKind] = {
    PythonDocsSource: SourceKind(lambda source, _: installed.list_items(source), installed.identity),
    HfSource: SourceKind(_list_hub, _hub_identity),
    CustomSource: SourceKind(_list_custom, lambda source: {}),
    **dict.fromkeys(FORMS, _FILES),
}


def source_names(config: CorpusConfig) -> list[str]:
    """The name of each source: its own, or its kind, with a number where a kind is repeated (``text-2``)."""
    names: list[str] = []
    taken = {source.name for source in config.sources if source.name}
    for source in config.sources:
        name, number = source.name or source.kind, 1
        while not source.name and (name in taken or name in names):
            number += 1
            name = f"{source.kind}-{number}"
        names.append(name)
    return names


def check(config: CorpusConfig, store: Store) -> None:
    """Load every function that a source names.

    Raises:
        UserError: there is no such module or function, or importing it fails.
    """
    for source in config.sources:
        if isinstance(source, CustomSource):
            load_function(source.function)


def resolve(config: CorpusConfig) -> dict[str, Any]:
    """The identity of the sources' content, in place of where they are.

    Raises:
        UserError: a source is missing, matches nothing or cannot be read.
        InfraError: S3 or the Hub does not answer.
    """
    pairs = zip(config.sources, source_names(config), strict=True)
    return {
        "sources": [
            source.model_dump(mode="json", exclude=NOT_IDENTITY)
            | SOURCES[type(source)].identity(source)
            | {"name": name}
            for source, name in pairs
        ]
    }
