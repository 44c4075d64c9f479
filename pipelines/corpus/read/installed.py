"""What ``python-docs`` lists: docstrings, READMEs, licences and help topics of this machine's Python."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipelines.corpus.docstrings import module_markdown
from pipelines.corpus.documents import Document, Item, Outcome, Problem, clean_unicode
from pipelines.corpus.source import SourceBase


def read_docstrings(item: Item, _: SourceBase) -> Iterator[Outcome]:
    """A module's documentation as Markdown, if it has any."""
    try:
        text = module_markdown(Path(item.location).read_bytes(), str(item.metadata["module"]))
    except OSError as error:
        yield Problem(item.path, f"cannot be read: {error.strerror}", "unreadable")
        return
    except (SyntaxError, ValueError, RecursionError) as error:
        yield Problem(item.path, f"cannot be parsed: {error}", "not_python")
        return
    if text:
        yield _document(item, clean_unicode(text))


def read_readme(item: Item, _: SourceBase) -> Iterator[Outcome]:
    """The long description of a package."""
    text = metadata.PathDistribution(Path(item.location).parent).metadata.get_payload()  # type: ignore[attr-defined]
    yield _document(item, clean_unicode(str(text).strip() + "\n"))


def read_licence(item: Item, _: SourceBase) -> Iterator[Outcome]:
    """A package's licence text."""
    try:
        yield _document(item, Path(item.location).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        yield Problem(item.path, "is not UTF-8 text", "not_utf8")
    except OSError as error:
        yield Problem(item.path, f"cannot be read: {error.strerror}", "unreadable")


def read_topic(item: Item, _: SourceBase) -> Iterator[Outcome]:
    """A topic of the language reference."""
    from pydoc_data import topics

    yield _document(item, topics.topics[item.location])


def _document(item: Item, text: str) -> Document:
    return Document(item.path, text, item.licence, item.metadata)
