"""Processes that carry a mark, with all below them: found, and ended all at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil

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
    """Ids of the processes that carry a mark, and of all below them, which may have lost it."""
    found = set(reaper.marked_processes(mark))
    parents = {each.pid: each.info["ppid"] for each in psutil.process_iter(["ppid"])}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def kill_family(mark: str) -> None:
    """SIGKILL for all of them at once; return when they are gone."""
    victims = [pid for pid in family(mark) if psutil.pid_exists(pid)]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    reaper.end_marked(mark, grace_s=0)
    wait_for(lambda: not any(map(runs, victims)), f"the end of {victims}")


def runs(pid: int) -> bool:
    """Whether a process is there and not only waits to be collected."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
