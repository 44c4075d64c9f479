"""What tells code from other code: work that a killed run has left is continued by the code that began it only."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_SUFFIXES = {".py", ".txt", ".json"}
"""Modules and the lists they read; compiled files differ between machines, and READMEs decide nothing."""


@functools.cache
def code_digest(*folders: Path) -> str:
    """16 hex digits for the sources in folders, wherever those lie. The version of a checkout is always the same."""
    whole = hashlib.sha256()
    for folder in folders:
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in _SUFFIXES}
        for name in sorted(paths):
            whole.update(f"{name}\0{hashlib.sha256(paths[name].read_bytes()).hexdigest()}\n".encode())
        whole.update(b"\n")
    return whole.hexdigest()[:16]
