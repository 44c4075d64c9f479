"""Rows of an Arrow table as tasks read them, without the library ``datasets``, whose import takes longer than all else.

A task that only asks its questions needs a length, rows by number, iteration, and the columns' names. Whatever else is
asked of the rows is answered by a real ``datasets.Dataset`` of the same table, made when that happens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

PLAIN_FEATURES = frozenset({"Value", "List", "LargeList", "Sequence", "ClassLabel"})
"""Kinds of columns whose Python values are Arrow's own; images and the like are decoded by ``datasets``."""


class Rows:
    """Some rows; equal, one by one, to those of a ``Dataset`` of the same table. Each access makes new dictionaries."""

    def __init__(self, table: Any, fingerprint: str) -> None:
        self._table = table
        self._fingerprint = fingerprint
        self._made: Dataset | None = None

    @property
    def features(self) -> dict[str, Any]:
        """The columns, by name."""
        return {field.name: field.type for field in self._table.schema}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches():
            yield from batch.to_pylist()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and 0 <= key < len(self):
            return self._table.slice(key, 1).to_pylist()[0]
        return self.dataset[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def is_plain(self) -> bool:
        """Whether no column is of a kind that ``datasets`` would decode."""
        told = (self._table.schema.metadata or {}).get(b"huggingface")
        return told is None or _kinds(json.loads(told)) <= PLAIN_FEATURES

    @property
    def dataset(self) -> Dataset:
        """The same rows as the library has them."""
        if self._made is None:
            from datasets import Dataset

            self._made = Dataset(self._table, fingerprint=self._fingerprint)
        return self._made


def _kinds(told: Any) -> set[str]:
    if isinstance(told, list):
        return {kind for each in told for kind in _kinds(each)}
    if not isinstance(told, dict):
        return set()
    own = {told["_type"]} if isinstance(told.get("_type"), str) else set()
    return own | {kind for each in told.values() for kind in _kinds(each)}
