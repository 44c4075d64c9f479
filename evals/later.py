"""Modules that are executed when something of them is first used, not when they are imported.

lm-eval's metrics and its TruthfulQA file import BLEU and ROUGE, and with them NLTK and SciPy: seconds that only
``truthfulqa_gen`` needs, at the time it scores. Its task module imports ``datasets``, and with it pandas: most of what
starting takes, and needed only where a task processes its rows or reads them from the Hub.

``importlib.util.LazyLoader`` does not do: with it a second ``import`` of a module counts as use (Python 3.11).
"""

from __future__ import annotations

import importlib.abc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SCORERS = frozenset({"rouge_score", "sacrebleu"})
LARGE = frozenset({"datasets", "requests", "dill", "lm_eval.loggers"})
"""Packages of which only the first import is put off: when they are executed, it is all of them, in their own order."""

OPEN = frozenset({"lm_eval.loggers"})
"""Packages whose modules are imported without the package's own code: it brings pandas along for loggers in the web,
and nothing in it is needed by the module of it that lm-eval's evaluator imports."""

_LOCK = threading.RLock()


class _Prepared(ModuleType):
    """A module whose code has not run; the first look at anything that it does not have yet runs it.

    A package is without ``__path__`` until then (unless it is OPEN), so that the import of a module in it runs the
    package first.
    """

    def __getattr__(self, name: str) -> Any:
        with _LOCK:  # another thread that gets here waits until all of it is there
            loader = self.__dict__.pop("_pending", None)
            if loader is not None:
                _execute(self, loader)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def _execute(module: ModuleType, loader: importlib.abc.Loader) -> None:
    spec = module.__spec__
    assert spec is not None
    spec.loader = module.__loader__ = loader
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    loader.exec_module(module)
    module.__class__ = ModuleType


class _LaterLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Prepared(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ not in OPEN:
            module.__dict__.pop("__path__", None)
        module.__dict__["_pending"] = self._loader


class _Later(importlib.abc.MetaPathFinder):
    def __init__(self, packages: frozenset[str], alone: frozenset[str]) -> None:
        self._packages = packages
        self._alone = alone

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages and fullname not in self._alone:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LaterLoader(spec.loader)
        return spec


@contextmanager
def imported_later(packages: frozenset[str] = SCORERS, alone: frozenset[str] = LARGE) -> Iterator[None]:
    """Inside: the first import of one of these packages only prepares it.

    Args:
        packages: of these, modules inside are put off as well.
        alone: of these, the package itself.
    """
    finder = _Later(packages, alone)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def is_executed(name: str) -> bool:
    """Whether a module was imported, and is more than prepared."""
    module = sys.modules.get(name)
    return module is not None and "_pending" not in vars(module)
