"""Compiled code is kept on disk, and made anew where that cannot be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numba
import pytest

from pipelines.curate.compiled import compiled


def double(value: int) -> int:
    return 2 * value


def test_a_read_only_install_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def without_a_folder(**options: Any) -> Any:
        asked.append(bool(options.get("cache")))
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function 'double': no locator available for file 'x.py'")
        return numba.njit(**options)

    monkeypatch.setattr("pipelines.curate.compiled.numba", SimpleNamespace(njit=without_a_folder))
    assert compiled(double)(4) == 8
    assert asked == [True, False]
