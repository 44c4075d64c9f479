"""The kinds of source: how each is listed and what identifies its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.corpus import installed
from pipelines.corpus.config import CorpusConfig, JsonlSource, PathSource, PythonDocsSource, SourceBase, TextSource
from pipelines.corpus.documents import Item, stable_order
from pipelines.corpus.files import content_digest, find_files

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl",)


@dataclass(frozen=True)
class SourceKind:
    """What the corpus stage asks of a kind of source.

    Attributes:
        list_items: the source's items, in the order in which they are taken; raises UserError.
        identity: plain JSON values that change whenever the text would, and name no place; raises UserError.
    """

    list_items: Callable[[Any], list[Item]]
    identity: Callable[[Any], dict[str, Any]]


def _path_items(source: PathSource) -> list[Item]:
    form, suffixes = _form(source)
    files = find_files(source.path, suffixes)
    about = {"kind": form}
    items = [Item(form, each.name, str(each.location), each.size_bytes, source.licence, about) for each in files]
    return sorted(items, key=lambda item: stable_order(item.path))


def _path_identity(source: PathSource) -> dict[str, Any]:
    files = find_files(source.path, _form(source)[1])
    fields = source.model_dump(exclude={"path"})
    return fields | {
        "files": len(files),
        "bytes": sum(each.size_bytes for each in files),
        "content_sha256": content_digest(files),
    }


def _form(source: PathSource) -> tuple[str, tuple[str, ...]]:
    return ("text", TEXT_SUFFIXES) if isinstance(source, TextSource) else ("jsonl", JSONL_SUFFIXES)


SOURCES: dict[type[SourceBase], SourceKind] = {
    PythonDocsSource: SourceKind(installed.list_items, installed.identity),
    TextSource: SourceKind(_path_items, _path_identity),
    JsonlSource: SourceKind(_path_items, _path_identity),
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


def resolve(config: CorpusConfig) -> dict[str, Any]:
    """The identity of the sources' content, in place of where they are.

    Raises:
        UserError: a source is missing, matches nothing or cannot be read.
    """
    pairs = zip(config.sources, source_names(config), strict=True)
    return {"sources": [SOURCES[type(source)].identity(source) | {"name": name} for source, name in pairs]}
