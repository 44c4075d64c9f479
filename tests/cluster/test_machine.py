"""Cores are counted as the container has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import machine


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 6), (None, 6)])
def test_the_least_of_all_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(machine, "CGROUP_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota, encoding="ascii")
    assert machine.available_cores() == cores
