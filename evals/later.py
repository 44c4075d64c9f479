"""Modules that are executed when something of them is first used, not when they are imported.

lm-eval's TruthfulQA file imports BLEU and ROUGE, and with them NLTK and SciPy: seconds that only ``truthfulqa_gen``
needs, at the time it scores.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

SCORERS = frozenset({"rouge_score", "sacrebleu"})


class _Later(importlib.abc.MetaPathFinder):
    def __init__(self, packages: frozenset[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@contextmanager
def imported_later(packages: frozenset[str] = SCORERS) -> Iterator[None]:
    """Inside: the first import of one of these packages, or of a module in it, only prepares it."""
    finder = _Later(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
