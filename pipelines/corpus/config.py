"""Recipe section ``corpus``: where the raw text comes from. One class for each kind of source.

A new kind is a class here (with its ``kind`` literal), added to ``Source``, and an entry in
``pipelines.corpus.sources.SOURCES`` that lists and reads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from cluster.config import StrictModel, execution
from cluster.stage import Stage


class SourceBase(StrictModel):
    """What every kind of source has."""

    name: str | None = Field(
        None,
        min_length=1,
        description="what documents of this source are called in the tables; by default its kind",
    )
    max_bytes: int | None = Field(
        None, ge=1, description="stop after this many bytes of text (UTF-8), in the source's stable order"
    )


class PythonDocsSource(SourceBase):
    """The text every Python installation has: docstrings, package READMEs, pydoc topics, licence texts."""

    kind: Literal["python-docs"] = Field("python-docs", description="the documentation of this machine's own Python")
    max_bytes: int | None = Field(
        15_000_000, ge=1, description="stop after this many bytes of text (UTF-8); every kind of text has its share"
    )


class PathSource(SourceBase):
    """What sources in local files have in common."""

    path: str = Field(
        min_length=1, description="a file, a folder (read with all below it) or a glob such as data/**/*.md"
    )
    licence: str = Field(
        "unknown", min_length=1, description="the licence of these documents, best as an SPDX expression"
    )
    bad_input: Literal["refuse", "skip"] = Field(
        "refuse",
        description="what to do about text that is not UTF-8 and records that cannot be used: "
        "refuse stops with the place, skip counts them in the report",
    )

    @field_validator("path")
    @classmethod
    def _is_local(cls, path: str) -> str:
        if "://" in path:
            raise ValueError("only local paths are read; copy the files to a local folder first")
        return path


class TextSource(PathSource):
    """Plain text and Markdown files, one document each; long files are cut at blank lines."""

    kind: Literal["text"] = Field("text", description="plain text and Markdown files (.txt, .md)")
    max_document_bytes: int = Field(
        262_144,
        ge=1024,
        description="a longer file becomes several documents, cut at blank lines or else at line ends "
        "(quality rules judge whole documents, and refuse those over 100,000 words)",
    )


class JsonlSource(PathSource):
    """JSON Lines: one object a line, its text in one field; the other fields are kept as metadata."""

    kind: Literal["jsonl"] = Field("jsonl", description="files with one JSON object a line (.jsonl)")
    text_field: str = Field("text", min_length=1, description="the field that holds the text")
    licence_field: str | None = Field(None, description="the field that holds each document's licence, if any")


Source = Annotated[PythonDocsSource | TextSource | JsonlSource, Field(discriminator="kind")]


def _default_sources() -> list[Source]:
    return [PythonDocsSource.model_validate({})]


class CorpusConfig(StrictModel):
    """Recipe section ``corpus``."""

    sources: list[Source] = Field(
        default_factory=_default_sources,
        min_length=1,
        description="where the text comes from, each with a kind: python-docs, text or jsonl",
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
    version=1,
    entry="pipelines.corpus.stage:run",
    resolve="pipelines.corpus.sources:resolve",
)
