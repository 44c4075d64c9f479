"""Ends every process of an embedded Ray, also when the process that started it was killed outright.

Ray's own processes notice a dead driver only by time-outs, up to a minute later. They all inherit a mark in their
environment. A small process waits for the end of a pipe that only the driver holds open: however the driver ends, the
pipe closes, and whatever still carries the mark is ended, by id. Linux only (``/proc``).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "RAYMILL_RAY_MARK"
GRACE_S = 3.0
POLL_S = 0.1


def marked_processes(mark: str) -> list[int]:
    """Ids of the living processes, other than this one, whose environment carries the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended while we looked, or belongs to somebody else
            continue
    return found


def end_marked(mark: str, grace_s: float = GRACE_S) -> None:
    """Wait for the marked processes to go by themselves, then kill those that stay."""
    deadline = time.monotonic() + grace_s
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    while left:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL_S)
        left = marked_processes(mark)


def start(mark: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the waiting process; it acts when its standard input closes, with this process or by hand.

    Args:
        folder: the session's own folder (its token is in it), removed at the end.
    """
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.reaper", mark, str(folder)],
        stdin=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parents[1],
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
