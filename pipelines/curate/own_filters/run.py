"""Calling users' filters: loaded once in each process, every answer checked, every failure theirs and named."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cluster.errors import UserError
from pipelines.curate.own_filters.config import FilterConfig

FIELDS = ("id", "text", "source", "path", "licence", "language", "quality_score")
PREFIX = "filter"


def check_filters(filters: Sequence[FilterConfig]) -> None:
    """Load every filter, before any work.

    Raises:
        UserError: one cannot be loaded, or two have one name and would be counted as one.
    """
    names = [_name(each) for each in filters]
    for each in filters:
        _load(each.model_dump_json())
        if names.count(_name(each)) > 1:
            raise UserError(
                f"two filters are called {_name(each)}", where="curate.filters", next_step="rename one of the functions"
            )


def apply_filters(row: Mapping[str, Any], text: str, filters: Sequence[FilterConfig]) -> str | None:
    """The reason of the first filter that drops a document, or None.

    Args:
        row: the corpus row; ``metadata`` is JSON text and is given to filters decoded.
        text: its text as cleaned so far.

    Raises:
        UserError: a filter raised (and ``on_error`` is refuse), or returned something else than it may.
    """
    if not filters:
        return None
    document = {name: row.get(name) for name in FIELDS} | {
        "text": text,
        "metadata": json.loads(row["metadata"] or "{}"),
    }
    for each in filters:
        name = f"{PREFIX}.{_name(each)}"
        function = _load(each.model_dump_json())
        try:
            answer = function(MappingProxyType(document))
        except Exception as error:  # it is the user's code: whatever it raises is theirs to repair
            if each.on_error == "drop":
                return f"{name}.error"
            raise UserError(
                f"raised {type(error).__name__}: {error}",
                where=f"curate.filters: {each.function}, document {row['id']} ({row['path']})",
                next_step="repair the filter, or set its on_error: drop to count such documents",
            ) from error
        if answer is None or answer is True:
            continue
        if answer is False:
            return name
        if isinstance(answer, str) and re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", answer):
            return f"{name}.{answer}"
        raise UserError(
            f"returned {answer!r}",
            where=f"curate.filters: {each.function}, document {row['id']} ({row['path']})",
            next_step="return True or None to keep a document, False or a reason such as too_long "
            "(lower-case letters, digits, - and _) to drop it",
        )
    return None


def _name(config: FilterConfig) -> str:
    return config.function.partition(":")[2]


@functools.lru_cache(maxsize=64)
def _load(settings: str) -> Callable[[Mapping[str, Any]], Any]:
    config = FilterConfig.model_validate_json(settings)
    module, _, name = config.function.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a filter that lies beside the recipe; the console script does not put it there
    try:
        found = getattr(importlib.import_module(module), name)
        made = found(**config.options) if inspect.isclass(found) else functools.partial(found, **config.options)
    except Exception as error:  # importing runs the user's code
        raise UserError(
            f"cannot be loaded: {type(error).__name__}: {error}",
            where=f"curate.filters: {config.function}",
            next_step="check its name, and that its module can be imported from the folder where the command runs",
        ) from error
    if not callable(made):
        raise UserError("cannot be called", where=f"curate.filters: {config.function}", next_step="name a function")
    return made
