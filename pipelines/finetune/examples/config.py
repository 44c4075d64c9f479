"""Where rows of data come from, as a recipe says it. Loads nothing heavy."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from cluster.config import StrictModel, execution

Form = Literal["auto", "chat", "pairs", "alpaca", "text", "preferences", "ratings", "prompts", "labelled"]
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}


class RowData(StrictModel):
    """What every source of rows has."""

    form: Form = Field(
        "auto",
        description="what a row is: chat (messages), pairs (prompt, completion), alpaca (instruction, input, output), "
        "text, preferences (prompt, chosen, rejected), ratings (prompt, response, rating), prompts (prompt alone), "
        "labelled (text, maybe pair, label); auto: by the first row",
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="where your columns have other names: name of the form -> yours, for example {completion: reply}",
    )
    system: str | None = Field(
        None, min_length=1, description="a system message for every row that has none of its own"
    )
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="a row that is no example: refuse names it and stops; skip leaves it out and counts it"
    )


class FileData(RowData):
    """Rows in files."""

    path: str = execution(
        min_length=1, description="a file, a folder or a glob; local, or s3://bucket/…; .gz and .zst are unpacked"
    )

    @field_validator("path")
    @classmethod
    def _can_be_read(cls, path: str) -> str:
        if "://" in path and not path.startswith("s3://"):
            raise ValueError("is neither a local path nor s3://…; datasets of the Hub have the kind hf")
        return path


class JsonlData(FileData):
    """One JSON object a line."""

    kind: Literal["jsonl"] = Field("jsonl", description="files with one JSON object a line (.jsonl, .ndjson)")


class JsonData(FileData):
    """A list of JSON objects."""

    kind: Literal["json"] = Field("json", description="files that are one JSON list of objects (.json)")


class ParquetData(FileData):
    """Parquet, a row each."""

    kind: Literal["parquet"] = Field("parquet", description="Parquet files (.parquet)")


class HubData(RowData):
    """A dataset of the Hugging Face Hub, or a local folder in its layout."""

    kind: Literal["hf"] = Field("hf", description="a dataset of the Hugging Face Hub")
    path: str = Field(min_length=1, description="hf://organisation/name, or a local folder in the Hub's layout")
    configuration: str | None = Field(None, description="the dataset's configuration, where it has several")
    split: str = Field("train", min_length=1, description="which split to read")
    revision: str | None = Field(None, description="a branch, tag or commit; what it means is pinned when it is read")


def from_place(value: Any) -> Any:
    """A bare place as the source that it means: ``data: chats.jsonl.gz``, ``data: hf://organisation/name``."""
    if not isinstance(value, str):
        return value
    if value.startswith("hf://"):
        return {"kind": "hf", "path": value}
    name = PurePosixPath(value).name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    kind = SUFFIXES.get(PurePosixPath(name).suffix)
    if kind is None:
        raise ValueError(
            f"{value!r} does not say what kind of file it is: name a {', '.join(SUFFIXES)} file, or write "
            "{kind: jsonl, path: …}"
        )
    return {"kind": kind, "path": value}


AnyRows = JsonlData | JsonData | ParquetData | HubData
Rows = Annotated[AnyRows, Field(discriminator="kind"), BeforeValidator(from_place)]
"""The type of a recipe key that names rows."""


def _share_or_number(size: float | None) -> float | None:
    if size is not None and size > 1 and not size.is_integer():
        raise ValueError(f"{size:g} is neither a share below 1 nor a whole number of examples")
    return size


Subset = Annotated[float | None, Field(gt=0), AfterValidator(_share_or_number)]
"""The type of a recipe key that says how many examples are used: a number, or a share of them below 1."""


def rows_identity(data: AnyRows) -> dict[str, Any]:
    """What the rows are, for an artifact's identity: their content and how they are read, not where they lie.

    Raises:
        UserError: there is no such file or dataset.
        InfraError: S3 or the Hub does not answer.
    """
    how = data.model_dump(mode="json", exclude={"path"})
    if isinstance(data, HubData):
        from pipelines.corpus.read.hub import hub_identity

        return how | hub_identity(hub_source(data))
    from pipelines.corpus.files import content_digest, find_files

    files = find_files(data.path, suffixes_of(data))
    return how | {"files": len(files), "content_sha256": content_digest(files)}


def suffixes_of(data: AnyRows) -> tuple[str, ...]:
    """Names that a folder is searched for."""
    return tuple(suffix for suffix, kind in SUFFIXES.items() if kind == data.kind)


def hub_source(data: HubData) -> Any:
    """The corpus source that reads the same dataset."""
    from pipelines.corpus.config import HfSource

    return HfSource(path=data.path, subset=data.configuration, split=data.split, revision=data.revision)
