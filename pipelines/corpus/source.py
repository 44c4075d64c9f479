"""What kinds of source have in common: names and weights, files and their bounds, fields of records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from cluster.config import StrictModel, execution

MetadataValue = str | int | float | bool


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
    weight: float | None = execution(
        None,
        ge=0,
        description="how often its text is used for training: 1 as it is (the default), 0.5 half of it, 2 twice; "
        "curate.mix carries it out, so that another weight does not read the source again",
    )


class DeclaredSource(SourceBase):
    """A source about which the recipe says what its documents are."""

    licence: str = Field(
        "unknown", min_length=1, description="the licence of these documents, best as an SPDX expression"
    )
    language: str | None = Field(
        None, min_length=2, description="the language that these documents are said to be in (ISO 639 code)"
    )
    metadata: dict[str, MetadataValue] = Field(
        default_factory=dict, description="kept with each document, for example {team: support}"
    )
    bad_input: Literal["quarantine", "skip", "refuse"] = Field(
        "quarantine",
        description="what to do about input that cannot be used: quarantine keeps its place, reason and first bytes "
        "and goes on until corpus.max_bad_fraction is passed (skip means the same), refuse stops at the first",
    )


class FileSource(DeclaredSource):
    """What sources in files have in common; compressed files (gzip, zstd, bzip2, xz) are known by their content."""

    path: str = Field(
        min_length=1,
        description="a file, a folder (read with all below it) or a glob such as data/**/*.md; local, or s3://bucket/…",
    )
    max_record_bytes: int = Field(
        16 << 20, ge=1024, description="largest line, record or page that is held in memory; larger are quarantined"
    )
    max_unpacked_bytes: int = Field(
        64 << 30, ge=1, description="a compressed file that unpacks to more is given up there (zip bombs)"
    )
    max_unpack_ratio: float = Field(
        250, ge=2, description="a compressed file is given up past 32 MiB where it unpacks to this many times its size"
    )

    @field_validator("path")
    @classmethod
    def _can_be_read(cls, path: str) -> str:
        if "://" in path and not path.startswith("s3://"):
            raise ValueError("is neither a local path nor s3://…; datasets of the Hub have the kind hf")
        return path


class RecordSource(DeclaredSource):
    """Which fields of a record mean what. ``a.b`` is the field b inside a, where there is no field of that name."""

    text_field: str = Field("text", min_length=1, description="the field that holds the text")
    id_field: str | None = Field(None, description="the field that names a record; kept as record_id in its metadata")
    licence_field: str | None = Field(None, description="the field that holds each document's licence, if any")
    language_field: str | None = Field(None, description="the field that holds each document's language, if any")
    metadata_fields: list[str] | None = Field(
        None, description="the fields kept as metadata; by default all that are not the text"
    )
