"""Compiled code is kept on disk, and made anew where that cannot be."""

from __future__ import annotations

from typing import Any

import numba
import pytest

from pipelines.curate.compiled import compiled


def double(value: int) -> int:
    return 2 * value


def test_a_read_only_install_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    njit = numba.njit

    def without_a_folder(**options: Any) -> Any:
        asked.append(bool(options.get("cache")))
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function 'double': no locator available for file 'x.py'")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_a_folder)
    assert compiled(double)(4) == 8
    assert asked == [True, False]
