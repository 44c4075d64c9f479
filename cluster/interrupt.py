"""Stopping: the first Ctrl-C (or SIGTERM) unwinds everything in order and in bounded time; a second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

UNWIND_SECONDS = 8.0
EXIT_CODE = 130

_interrupted = threading.Event()
_asked_by = 0
_allowance_s = UNWIND_SECONDS


def allow(seconds: float) -> None:
    """Give the unwinding so long from now on, where others wait for it: an endpoint finishes its answers first."""
    global _allowance_s
    _allowance_s = seconds


def was_terminated() -> bool:
    """Whether it was SIGTERM, by which a service manager ends what has done nothing wrong."""
    return _asked_by == signal.SIGTERM


def install() -> None:
    """Handle SIGINT and SIGTERM in the main thread. Call again after a library has set handlers of its own."""
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked_by
    if _interrupted.is_set():
        end_now()
    _interrupted.set()
    _asked_by = number
    print("\nstopping … (again to stop at once)", file=sys.stderr, flush=True)
    watchdog = threading.Timer(_allowance_s, end_now)
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt


def end_now() -> None:
    """End every process below this one, by id, and then this one. What was not published stays invisible."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            if "cluster.reaper" not in child.cmdline():  # it ends what was started since we looked, as we exit
                child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(EXIT_CODE)
