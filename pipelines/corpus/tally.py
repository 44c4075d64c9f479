"""Counts of documents, which add up over files and parts and are small however large the corpus is."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SIZE_LIMITS = (500, 2_000, 8_000, 32_000, 128_000)
"""Bounds, in bytes, of the groups in which documents are counted by size."""


@dataclass
class Tally:
    """What documents there are.

    Attributes:
        documents, bytes: how many, and their UTF-8 bytes.
        kinds, kind_bytes, licences, languages: by what their metadata, licence and declared language say.
        sizes: by the number of SIZE_LIMITS that a document reaches.
    """

    documents: int = 0
    bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    kind_bytes: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)

    def add(self, size: int, kind: str, licence: str, language: str | None) -> None:
        """Count one document of ``size`` bytes."""
        self.documents += 1
        self.bytes += size
        self.kinds[kind] += 1
        self.kind_bytes[kind] += size
        self.licences[licence] += 1
        self.languages[language or "not declared"] += 1
        self.sizes[sum(size >= limit for limit in SIZE_LIMITS)] += 1

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """The sum of tallies."""
        whole = cls()
        for each in tallies:
            whole.documents += each.documents
            whole.bytes += each.bytes
            for name in ("kinds", "kind_bytes", "licences", "languages", "sizes"):
                getattr(whole, name).update(getattr(each, name))
        return whole

    @classmethod
    def of_rows(cls, rows: Iterable[dict[str, Any]]) -> Tally:
        """The tally of rows of the corpus table."""
        whole = cls()
        for row in rows:
            kind = str(json.loads(row["metadata"]).get("kind", ""))
            whole.add(len(row["text"].encode("utf-8")), kind, row["licence"], row["language"])
        return whole

    def by_size(self) -> dict[str, float]:
        """Documents by size, with a label for each group."""
        between = [f"{low:,} to {high:,}" for low, high in itertools.pairwise(SIZE_LIMITS)]
        labels = [f"under {SIZE_LIMITS[0]:,}", *between, f"{SIZE_LIMITS[-1]:,} and more"]
        return {label: float(self.sizes[index]) for index, label in enumerate(labels)}
