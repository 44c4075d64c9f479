"""lm-eval's task files read once each, and their Python without what only its annotations name.

lm-eval parses a file, and the template that 57 subjects include, twice a task. The functions of its TruthfulQA file are
annotated with ``datasets.Dataset``, and to evaluate that the library would be imported.
"""

from __future__ import annotations
import __future__

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from evals.catalogue import tasks_root


@contextmanager
def files_read_once() -> Iterator[None]:
    """Inside, lm-eval's loader remembers the YAML that it read. Files must not change while the context lasts."""
    from lm_eval.tasks import _factory, _index, _yaml_loader

    read, load = _yaml_loader.load_yaml, _yaml_loader._load_module_with_cache
    known: dict[tuple[Path, bool, bool], dict[str, Any]] = {}

    def load_yaml(
        path: str | Path, *, resolve_func: bool = True, recursive: bool = True, _seen: set[Path] | None = None
    ) -> dict[str, Any]:
        place = (Path(path), resolve_func, recursive)
        if place not in known:
            known[place] = read(path, resolve_func=resolve_func, recursive=recursive, _seen=_seen)
        return dict(known[place])  # lm-eval takes keys out of what it gets, and copies the rest before it changes it

    def load_module(path: Path) -> Any:
        if path.is_relative_to(tasks_root()):
            name = ".".join(["lm_eval.tasks", *path.relative_to(tasks_root()).with_suffix("").parts])
            if name not in sys.modules:
                sys.modules[name] = _execute(name, path)
        return load(path)  # takes what is in sys.modules where the file is as old as it was

    modules = (_yaml_loader, _index, _factory)
    for module in modules:
        module.load_yaml = load_yaml
    _yaml_loader._load_module_with_cache = load_module
    try:
        yield
    finally:
        for module in modules:
            module.load_yaml = read
        _yaml_loader._load_module_with_cache = load


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """The file's code, its annotations left as text (PEP 563); never from or into the cache of compiled files."""
        source, flags = self.get_data(self.path), __future__.annotations.compiler_flag
        return compile(source, self.path, "exec", flags=flags, dont_inherit=True)


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["__mtime__"] = path.stat().st_mtime_ns  # lm-eval compares it
    spec.loader.exec_module(module)
    return module
