"""Ends every process of an embedded Ray, also when the process that started it was killed outright.

Ray's own processes notice a dead driver only by time-outs, up to a minute later. They all inherit a mark in their
environment. A small process waits for the end of a pipe that only the driver holds open: however the driver ends, the
pipe closes, and what carries the mark is ended, by id, with all that descends from it.

A process can write a title over its own environment, and then its mark cannot be read. Ray's do not
(:data:`KEEP_ENVIRONMENT`); others are known by their parents, and since orphans have none, the small process looks
again and again while all is well and remembers them. A process is remembered with the time of its start, so that a
later one with its id is never mistaken for it. Linux only (``/proc``).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MARK = "RAYMILL_RAY_MARK"
KEEP_ENVIRONMENT = {"SPT_NOENV": "1"}
"""For processes that are to be found by their mark: setproctitle(3), which Ray and vLLM have built in, then spares the
environment when it writes a process's title."""
GUARD = "guard of "
"""Before the mark in a guard's own environment: it is nobody's to end but its own."""
GRACE_S = 3.0
POLL_S = 0.1
LOOK_S = 2.0
LOOK_SHARE = 0.01
"""Of one core at most, for looking at a machine with many processes."""
PROCESSES = Path("/proc")
_OVER = "ZX"


class Process(NamedTuple):
    """A process for all time, where its id alone may be another's later.

    Attributes:
        started: clock ticks after the machine's start.
    """

    pid: int
    started: int


class _Status(NamedTuple):
    """What ``/proc/<pid>/stat`` says of a process, as far as it matters here; over: it only waits to be collected."""

    process: Process
    parent: int
    over: bool


def runs(process: Process) -> bool:
    """Whether that very process is there and not only waits to be collected."""
    status = _status(process.pid)
    return status is not None and status.process == process and not status.over


def marked_processes(mark: str) -> list[int]:
    """Ids of the living processes, other than this one, whose environment carries the mark."""
    return [status.process.pid for status in _everybody() if _mark_of(status.process.pid) == mark.encode()]


def family(mark: str, known: Iterable[Process] = ()) -> set[Process]:
    """The living processes, other than this one, that belong to a mark.

    Args:
        known: processes found earlier; those still alive are in it, and all that descends from them.

    Returns:
        those that carry the mark, and all below them but for what carries another mark, and what is below that.
    """
    everybody = {status.process.pid: status for status in _everybody()}
    earlier = set(known)
    found: set[Process] = set()
    strangers: set[int] = set()
    for pid, status in everybody.items():
        theirs = _mark_of(pid)
        if theirs == mark.encode():
            found.add(status.process)
        elif theirs is not None:  # also of one known: between fork and exec a process looks like its parent
            strangers.add(pid)
        elif status.process in earlier:
            found.add(status.process)
    while True:
        below = {
            status.process
            for pid, status in everybody.items()
            if status.process not in found
            and pid not in strangers
            and status.parent in everybody
            and everybody[status.parent].process in found
        }
        if not below:
            return found
        found |= below


def end_marked(mark: str, grace_s: float = GRACE_S, known: Iterable[Process] = ()) -> None:
    """Wait for a mark's processes to go by themselves, then kill those that stay.

    Args:
        known: processes of it that were seen earlier, see :func:`family`.
    """
    deadline = time.monotonic() + grace_s
    untouchable: set[Process] = set()
    left = family(mark, known)
    seen = set(left)
    while left:
        if time.monotonic() >= deadline:
            untouchable |= {process for process in left if not _kill(process)}
        time.sleep(POLL_S)
        left = family(mark, seen) - untouchable
        seen |= left


def start(mark: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the waiting process; it acts when its standard input closes, with this process or by hand.

    Args:
        folder: the session's own folder (its token is in it), removed at the end.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.reaper", mark, str(folder)],
        stdin=subprocess.PIPE,
        env=os.environ | {MARK: GUARD + mark},
        cwd=Path(__file__).parents[1],
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )


def watch(mark: str, until_closed: int) -> set[Process]:
    """Remember a mark's processes until a file descriptor is closed at its other end.

    Returns:
        those that were alive when it last looked.
    """
    known: set[Process] = set()
    pause_s = LOOK_S
    while True:
        if select.select([until_closed], [], [], pause_s)[0]:
            if not os.read(until_closed, 1 << 10):
                return known
            continue
        began = time.monotonic()
        known = family(mark, known)
        pause_s = max(LOOK_S, (time.monotonic() - began) / LOOK_SHARE)


def _everybody() -> Iterable[_Status]:
    """All living processes but this one."""
    for entry in os.listdir(PROCESSES):
        if entry.isdigit() and int(entry) != os.getpid():
            status = _status(int(entry))
            if status is not None and not status.over:
                yield status


def _status(pid: int) -> _Status | None:
    """None where there is no such process."""
    try:
        text = (PROCESSES / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name, in brackets, may have brackets and spaces itself; proc_pid_stat(5) counts the fields from 1.
    fields = text[text.rindex(b")") + 2 :].split()
    return _Status(Process(pid, int(fields[19])), int(fields[1]), fields[0].decode() in _OVER)


def _mark_of(pid: int) -> bytes | None:
    """The mark that a process carries; None where it carries none, is gone, or is somebody else's."""
    try:
        environment = (PROCESSES / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    name = f"{MARK}=".encode()
    return next((each[len(name) :] for each in environment.split(b"\0") if each.startswith(name)), None)


def _kill(process: Process) -> bool:
    """SIGKILL for that very process; false where this user may not."""
    if not runs(process):
        return True
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


if __name__ == "__main__":
    end_marked(sys.argv[1], known=watch(sys.argv[1], sys.stdin.fileno()))
    shutil.rmtree(sys.argv[2], ignore_errors=True)
