"""The recipe of a trial: the recipe as written with the trial's values. Every mistake names the space's line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.config import Document, KeyPath, document_path, key_path, with_values
from cluster.errors import UserError
from pipelines.recipe import Recipe, validate_recipe
from pipelines.tune.config import SpaceConfig

UNTOUCHED = ("tune", "store", "cluster", "name")
"""Sections that no trial may change."""


def space_place(key: str) -> KeyPath:
    """Where a key of the space stands in the document."""
    return ("tune", "space", key)


def trial_document(document: Document, values: Mapping[str, Any]) -> Document:
    """The recipe's document with a trial's values, and without its ``tune`` section."""
    changed = with_values(document, values, {key: space_place(key) for key in values})
    del changed.data["tune"]
    return changed


def trial_recipe(document: Document, values: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial.

    Raises:
        UserError: these values do not go together.
    """
    return validate_recipe(trial_document(document, values))


def check_space(document: Document, space: Mapping[str, SpaceConfig]) -> None:
    """Every key exists, and takes every value that it may be given.

    Raises:
        UserError: naming the line, and for a key that there is not the one that was perhaps meant.
    """
    for key, each in space.items():
        place = document.place(space_place(key))
        if key_path(key)[0] in UNTOUCHED:
            raise UserError(
                f"{key}: it says where the work is done or what it is called, which no trial can change",
                where=place,
                next_step="vary a key that decides about the model or its data",
            )
        for other in space:
            if other != key and key_path(other)[: len(key_path(key))] == key_path(key):
                raise UserError(f"{key} holds {other}, which is varied too", where=place, next_step="keep one of them")
        for value in each.values:
            _check_value(document, key, value)


def _check_value(document: Document, key: str, value: Any) -> None:
    changed = trial_document(document, {key: value})
    try:
        validate_recipe(changed)
    except UserError:
        # The value may only clash with others that a trial changes as well; what is wrong with itself is told.
        if _is_wrong_itself(changed, key_path(key)):
            raise


def _is_wrong_itself(document: Document, path: KeyPath) -> bool:
    try:
        Recipe.model_validate(document.data)
    except ValidationError as error:
        places = [document_path(document.data, tuple(each["loc"])) for each in error.errors()]
        # At the key or below it, or a part of its path that no section has.
        return any(place[: len(path)] == path for place in places) or any(
            each["type"] == "extra_forbidden" and place == path[: len(place)]
            for each, place in zip(error.errors(), places, strict=True)
        )
    return False


def to_yaml(document: Document, heading: str) -> str:
    """A document as the text of a recipe, below a heading of comment lines."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True, width=110)
