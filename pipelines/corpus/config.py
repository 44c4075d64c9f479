"""Recipe section ``corpus``: where the raw text comes from. One class for each kind of source.

A new kind is a class here (with its ``kind`` literal), added to ``Source``; an entry in
``pipelines.corpus.sources.SOURCES``, which lists it; and one in ``pipelines.corpus.readers.READERS``, which reads it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cluster.config import StrictModel, execution
from cluster.stage import Stage
from pipelines.corpus.encodings import find_encoding
from pipelines.corpus.source import DeclaredSource, FileSource, RecordSource, SourceBase

MAX_DOCUMENT = Field(
    262_144,
    ge=1024,
    description="a longer text becomes several documents, cut at blank lines or else at line ends "
    "(quality rules judge whole documents, and refuse those over 100,000 words)",
)


class PythonDocsSource(SourceBase):
    """The text every Python installation has: docstrings, package READMEs, pydoc topics, licence texts."""

    kind: Literal["python-docs"] = Field("python-docs", description="the documentation of this machine's own Python")
    max_bytes: int | None = Field(
        15_000_000, ge=1, description="stop after this many bytes of text (UTF-8); every kind of text has its share"
    )


class _Encoded(FileSource):
    encoding: str = Field("utf-8", description="how the characters are written; utf-8 also allows a byte order mark")

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        name = find_encoding(encoding)
        if name is None:
            raise ValueError("no such encoding of text; for example utf-8, utf-16, latin-1, cp1252, shift_jis")
        return name


class TextSource(_Encoded):
    """Plain text and Markdown files, one document each; long files are cut at blank lines."""

    kind: Literal["text"] = Field("text", description="plain text and Markdown files (.txt, .md)")
    max_document_bytes: int = MAX_DOCUMENT


class HtmlSource(FileSource):
    """Saved web pages: the main content as text, the title in the metadata."""

    kind: Literal["html"] = Field("html", description="web pages (.html, .htm, .xhtml), one document each")
    main_content: bool = Field(True, description="leave out navigation, footers and other boilerplate")
    max_cpu_seconds: float = Field(10, gt=0, description="a page that needs longer to be taken apart is quarantined")


class PdfSource(FileSource):
    """PDF files: the text that is in them (nothing is recognised from images), long ones in several documents."""

    kind: Literal["pdf"] = Field("pdf", description="PDF files with text in them (.pdf)")
    max_record_bytes: int = Field(256 << 20, ge=1024, description="a larger file is quarantined")
    max_document_bytes: int = MAX_DOCUMENT
    max_cpu_seconds: float = Field(120, gt=0, description="a file that needs longer to be read is quarantined")


class JsonlSource(RecordSource, FileSource):
    """JSON Lines: one object a line, its text in one field; the other fields are kept as metadata."""

    kind: Literal["jsonl"] = Field("jsonl", description="files with one JSON object a line (.jsonl, .ndjson)")


class ParquetSource(RecordSource, FileSource):
    """Parquet files, a document for each row."""

    kind: Literal["parquet"] = Field("parquet", description="Parquet files (.parquet)")


class CsvSource(RecordSource, _Encoded):
    """Tables of comma-separated values with a header, a document for each row."""

    kind: Literal["csv"] = Field("csv", description="comma- or tab-separated values with a header (.csv, .tsv)")
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="between two values; by default a comma, and a tab in .tsv files"
    )

    @field_validator("encoding")
    @classmethod
    def _has_lines(cls, encoding: str) -> str:
        if "\n".encode(encoding) != b"\n":
            raise ValueError("rows of a table cannot be told apart in it; convert the file to utf-8 (iconv -t utf-8)")
        return encoding


class WarcSource(FileSource):
    """Web archives (ISO 28500): the main content of each HTML page, and plain texts; URL and date in the metadata."""

    kind: Literal["warc"] = Field("warc", description="web archives of pages as they were fetched (.warc)")
    main_content: bool = Field(True, description="leave out navigation, footers and other boilerplate")
    max_cpu_seconds: float = Field(10, gt=0, description="a page that needs longer to be taken apart is quarantined")


class WetSource(FileSource):
    """Common Crawl's extracted text: each conversion record is a document."""

    kind: Literal["wet"] = Field("wet", description="web archives of extracted text (.wet)")


class HfSource(RecordSource):
    """A dataset of the Hugging Face Hub, streamed; or a local folder in the Hub's layout."""

    kind: Literal["hf"] = Field("hf", description="a dataset of the Hugging Face Hub")
    path: str = Field(min_length=1, description="hf://organisation/name, or a local folder in the Hub's layout")
    subset: str | None = Field(None, description="the dataset's configuration, where it has several")
    split: str = Field("train", min_length=1, description="which split to read")
    revision: str | None = Field(None, description="a branch, tag or commit; what it means is pinned when it is read")


class CustomSource(RecordSource):
    """Documents from your own code: a scraper, an internal system."""

    kind: Literal["custom"] = Field("custom", description="documents that a function of yours yields")
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:function that yields texts, or mappings with the fields named here",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="given to the function by name")
    version: str = Field("1", description="change it when the function yields other documents: code is not looked at")
    shards: int = Field(
        1, ge=1, description="call the function this often side by side, with shard and shards as further arguments"
    )


Source = Annotated[
    PythonDocsSource
    | TextSource
    | HtmlSource
    | PdfSource
    | JsonlSource
    | ParquetSource
    | CsvSource
    | WarcSource
    | WetSource
    | HfSource
    | CustomSource,
    Field(discriminator="kind"),
]


def _default_sources() -> list[Source]:
    return [PythonDocsSource.model_validate({})]


class CorpusConfig(StrictModel):
    """Recipe section ``corpus``."""

    sources: list[Source] = Field(
        default_factory=_default_sources,
        min_length=1,
        description="where the text comes from, each with a kind: python-docs, text, html, pdf, jsonl, parquet, csv, "
        "warc, wet, hf or custom",
    )
    max_bad_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="fail when more than this share of a source's inputs (documents and what is quarantined; "
        "a file given up half-way counts as one) cannot be used",
    )
    part_bytes: int = Field(
        32 << 20,
        ge=1 << 16,
        description="about the most text that a worker holds, and that a file of the corpus has",
    )
    workers: int | None = execution(
        None, ge=1, description="parallel readers; by default one for each core that Ray really has"
    )

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: list[Source]) -> list[Source]:
        given = [source.name for source in sources if source.name]
        for name in given:
            if given.count(name) > 1:
                raise ValueError(f"two sources are named {name}; give each its own name")
        return sources


STAGE = Stage(
    name="corpus",
    kind="Corpus",
    version=3,
    entry="pipelines.corpus.stage:run",
    resolve="pipelines.corpus.sources:resolve",
    check="pipelines.corpus.sources:check",
)

__all__ = ["STAGE", "CorpusConfig", "DeclaredSource", "FileSource", "RecordSource", "Source", "SourceBase"]
