"""People's names by a library that the recipe names; Raymill ships no model for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cluster.errors import UserError
from pipelines.curate.redaction.config import NamesConfig
from pipelines.curate.redaction.spans import Finder, Scan

_PERSON = ("PERSON", "PER")
"""What spaCy's pipelines call a person, by the corpus that they were trained on."""


def name_finder(config: NamesConfig) -> Finder:
    """A finder that asks the library.

    Raises:
        UserError: the function or the pipeline is not there, or the pipeline finds no entities.
    """
    if config.library is not None:
        return _by_function(config.library)
    assert config.spacy is not None
    return _by_spacy(config.spacy)


def _by_function(named: str) -> Finder:
    module, _, path = named.partition(":")
    try:
        function: Any = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{named} cannot be loaded: {error}",
            where="curate.redact.names.library",
            next_step="name a module:function that can be imported where the workers run",
        ) from None
    call: Callable[[str], Iterable[tuple[int, int]]] = function

    def find(scan: Scan) -> Iterator[tuple[int, int]]:
        length = len(scan.text)
        for start, end in call(scan.text):
            if not 0 <= start < end <= length:
                raise UserError(
                    f"{named} gave the place {start}-{end} in a text of {length} characters",
                    where="curate.redact.names.library",
                    next_step="return (start, end) in characters, the end excluded",
                )
            yield start, end

    return find


def _by_spacy(pipeline: str) -> Finder:
    import spacy

    try:
        model = spacy.load(pipeline)
    except OSError:
        raise UserError(
            f"the spaCy pipeline {pipeline} is not installed",
            where="curate.redact.names.spacy",
            next_step=f"install it (`python -m spacy download {pipeline}`, or its wheel where there is no network), "
            "or use names: {library: module:function}",
        ) from None
    if not {"ner", "entity_ruler"} & set(model.pipe_names):
        raise UserError(
            f"the spaCy pipeline {pipeline} does not find entities",
            where="curate.redact.names.spacy",
            next_step="name one with ner or an entity_ruler",
        )

    def find(scan: Scan) -> Iterator[tuple[int, int]]:
        step = model.max_length
        for offset in range(0, len(scan.text), step):
            for entity in model(scan.text[offset : offset + step]).ents:
                if entity.label_ in _PERSON:
                    yield offset + entity.start_char, offset + entity.end_char

    return find
