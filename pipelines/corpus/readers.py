"""From one item to its documents, run in the workers: a reader for each form, loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cluster.stage import load_entry
from pipelines.corpus.documents import BadInput, Item, Outcome, Problem
from pipelines.corpus.source import SourceBase

Reader = Callable[[Item, SourceBase], Iterator[Outcome]]

READERS: dict[str, str] = {
    "docstring": "pipelines.corpus.read.installed:read_docstrings",
    "readme": "pipelines.corpus.read.installed:read_readme",
    "licence": "pipelines.corpus.read.installed:read_licence",
    "topic": "pipelines.corpus.read.installed:read_topic",
    "text": "pipelines.corpus.read.text:read_text",
    "html": "pipelines.corpus.read.web:read_html",
    "pdf": "pipelines.corpus.read.pdf:read_pdf",
    "jsonl": "pipelines.corpus.read.jsonlines:read_jsonl",
    "parquet": "pipelines.corpus.read.columns:read_parquet",
    "csv": "pipelines.corpus.read.tables:read_csv",
    "warc": "pipelines.corpus.read.archives:read_archive",
    "wet": "pipelines.corpus.read.archives:read_archive",
    "unusable": "pipelines.corpus.read.unusable:read_unusable",
    "hf": "pipelines.corpus.read.hub:read_hub",
    "custom": "pipelines.corpus.read.custom:read_custom",
}


def read_item(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """The documents of an item, in order, and what could not be used or is no document.

    An item that cannot be read on ends with a Problem; what came before it is kept.

    Raises:
        UserError: a file that the user named cannot be opened, or a function of the user's cannot be imported.
        InfraError: S3 or the Hub does not answer.
    """
    reader: Reader = load_entry(READERS[item.form])
    try:
        yield from reader(item, source)
    except BadInput as error:
        yield Problem(item.path, error.what, error.reason, _first_bytes(item))


def _first_bytes(item: Item) -> bytes:
    from pipelines.corpus.streams import open_file

    if item.form in ("hf", "custom", "unusable"):
        return b""
    with open_file(item.location) as stream:
        return bytes(stream.read(256))
