"""Values that are measured together, and what each depends on: a group's address changes with nothing else.

Thresholds, the policy of deduplication, the mix and the licence gate are in no address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.curate.config import STAGE, CurateConfig

TEXT, LANGUAGE, CLASSIFIER, FILTERS, AUDIT, BENCHMARKS, CLEANED_TEXTS, SIGNATURES = (
    "text",
    "language",
    "classifier",
    "filters",
    "audit",
    "benchmarks",
    "texts",
    "signatures",
)
VERSION = 1
"""Raised when something is measured otherwise than before."""

_GROUPS = {
    "characters": TEXT,
    "language": LANGUAGE,
    "language_confidence": LANGUAGE,
    "quality_score": CLASSIFIER,
    "filter": FILTERS,
    "toxicity": AUDIT,
    "benchmark_ngrams": BENCHMARKS,
}
_C4_LIMITS = {"min_sentences", "lorem_ipsum", "curly_bracket"}


def group_of(column: str) -> str:
    """The group of a column of ``scores/``; for scores of rules (``c4.sentences``) the set of rules."""
    return _GROUPS.get(column) or column.partition(".")[0]


def addresses(config: CurateConfig, classifier: str | None, benchmarks: str | None) -> dict[str, str]:
    """Group -> address, for all that a recipe may ask for.

    Args:
        classifier, benchmarks: SHA-256 of the trained classifier and of the index of the benchmarks.
    """
    base = [VERSION, STAGE.version]
    text = _address(base, config.normalise.model_dump() if config.normalise else None)
    lines = config.c4.model_dump(exclude=_C4_LIMITS) if "c4" in config.quality else None
    cleaned = _address(text, lines)
    language = _address(text)
    found = {
        TEXT: text,
        LANGUAGE: language,
        "gopher_repetition": _address(text, config.words) if config.repetition else None,
        "gopher_quality": _address(text, config.words) if "gopher" in config.quality else None,
        "c4": _address(cleaned, config.words) if "c4" in config.quality else None,
        "fineweb": _address(cleaned, config.words) if "fineweb" in config.quality else None,
        CLASSIFIER: _address(cleaned, classifier) if classifier else None,
        FILTERS: _filters(config, cleaned, language, classifier) if config.filters else None,
        AUDIT: _address(cleaned, config.audit.model_dump(include={"groups", "attributes", "toxic"}))
        if config.audit and config.audit.drop_above is not None
        else None,
        BENCHMARKS: _address(cleaned, benchmarks) if benchmarks else None,
        CLEANED_TEXTS: _address(cleaned, config.redact.model_dump()),
    }
    minhash = config.dedup.minhash.model_dump() if config.dedup.minhash else None
    found[SIGNATURES] = _address(found[CLEANED_TEXTS], minhash)
    return {group: address for group, address in found.items() if address is not None}


def matching(ours: Mapping[str, str], theirs: Mapping[str, str]) -> frozenset[str]:
    """The groups that were measured as this recipe does."""
    return frozenset(group for group, address in ours.items() if theirs.get(group) == address)


def _filters(config: CurateConfig, cleaned: str, language: str, classifier: str | None) -> str:
    """A filter is shown the identified language, or the declared one where the recipe identifies none."""
    return _address(
        cleaned, language, bool(config.language), classifier, [each.model_dump() for each in config.filters]
    )


def _address(*settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=_plain).encode("utf-8")).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Iterable):
        return sorted(value)
    raise TypeError(f"{value!r} has no address")
