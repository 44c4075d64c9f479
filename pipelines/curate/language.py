"""Language identification with the model that py3langid ships (Lui and Baldwin 2012, langid.py)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from cluster.errors import UserError

LOOKED_AT = 2000
"""Characters from the beginning of a document that decide; more costs time and hardly changes the answer."""


@functools.cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify_language(text: str) -> tuple[str, float]:
    """The likeliest language's ISO 639 code and its probability, from the first LOOKED_AT characters."""
    code, confidence = _model().classify(text[:LOOKED_AT])
    return str(code), float(confidence)


def check_languages(codes: Iterable[str]) -> None:
    """Raise UserError for a code that the model does not know."""
    known = set(_model().labels)
    for code in codes:
        if code not in known:
            raise UserError(
                f"{code!r} is no language that can be identified",
                where="curate.language",
                next_step=f"use ISO 639 codes; known: {' '.join(sorted(known))}",
            )
