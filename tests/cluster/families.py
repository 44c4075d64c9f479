"""Processes that belong to a mark: found, waited for, and ended all at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from cluster import reaper

LIMIT_S = 120.0
"""How long a wait may last before it fails; where all is well none does."""


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Return when something is so; fail after a long time."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"this never came: {what}"
        time.sleep(0.1)


def family(mark: str) -> set[int]:
    """Ids of the processes that belong to a mark."""
    return {process.pid for process in reaper.family(mark)}


def kill_family(mark: str) -> None:
    """SIGKILL for all of them at once; return when they are gone."""
    reaper.end_marked(mark, grace_s=0)
