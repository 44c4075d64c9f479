"""Documents that a function of the user's yields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from cluster.errors import RaymillError, UserError
from cluster.own_code import load_own
from pipelines.corpus.config import CustomSource
from pipelines.corpus.documents import BadInput, Item, Outcome, Problem
from pipelines.corpus.read.fields import to_document
from pipelines.corpus.source import SourceBase


def load_function(name: str) -> Callable[..., Any]:
    """The function that a ``module:function`` text names; modules in the current folder are found as well.

    Raises:
        UserError: there is no such module or function, or importing it fails.
    """
    found = load_own(name)
    if not callable(found):
        raise UserError("is no function", where=name, next_step="name a function that yields texts or mappings")
    return cast("Callable[..., Any]", found)


def read_custom(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """A document for each value yielded: a text, or a mapping with the fields that the source names."""
    assert isinstance(source, CustomSource)
    arguments = dict(source.arguments)
    if source.shards > 1:
        arguments |= {"shard": int(item.location), "shards": source.shards}
    number = 0
    for value in _values(load_function(source.function), arguments, source.function):
        number += 1
        path = f"{item.path}:{number}"
        record = {source.text_field: value} if isinstance(value, str) else value
        if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
            what = f"is {type(value).__name__}, neither a text nor a mapping with a text"
            yield Problem(path, what, "text_of_wrong_type")
            continue
        yield to_document(record, source, item, path, {}, _head(record))


def _values(function: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> Iterator[Any]:
    try:
        values: Iterable[Any] = function(**arguments)
        yield from values
    except RaymillError:
        raise
    except Exception as error:
        raise BadInput("source_failed", f"{name} raised {type(error).__name__}: {error}") from error


def _head(record: Mapping[str, Any]) -> bytes:
    return json.dumps({name: str(value)[:64] for name, value in list(record.items())[:8]}).encode()[:256]
