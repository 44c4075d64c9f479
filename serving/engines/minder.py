"""Runs one server and takes every process of it along when it ends. A script of its own: standard library only.

    python -I minder.py GRACE_SECONDS LOG COMMAND…

The minder lives as long as its standard input stays open. The owner holds the other end, which the kernel closes
however the owner dies, SIGKILL included. Then, or on SIGTERM, or when the server ends, it asks the server to stop,
waits, and kills what is left: as a child subreaper (prctl(2)) it inherits processes whose parents are gone. The
server itself dies with the minder (PR_SET_PDEATHSIG). It prints the server's process id, and ends with its status.

vLLM leaves its sockets behind where VLLM_RPC_BASE_PATH says, otherwise in the system's folder for temporary files. The
minder names a folder that is this server's alone, prints it too, and removes it at the end; its owner does so where
the minder was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SOCKET_FOLDER_CHARACTERS = 70
"""A Unix socket's path has at most 107 characters (unix(7)), and vLLM's names take 37 of them with the slash."""

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main() -> int:
    """Run the command until it ends or nobody wants it any more; returns its exit status."""
    grace, log, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    with _socket_folder() as sockets:
        return _mind(command, {**os.environ, "VLLM_RPC_BASE_PATH": sockets}, log, grace, wake, stopping)


def _mind(
    command: list[str], environment: dict[str, str], log: str, grace: float, wake: int, stopping: list[int]
) -> int:
    with open(log, "ab", buffering=0) as output:
        server = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    with contextlib.suppress(BrokenPipeError):
        print(server.pid, environment["VLLM_RPC_BASE_PATH"], sep="\n", flush=True)
    while server.poll() is None and not stopping:
        readable, _, _ = select.select([0, wake], [], [])
        if wake in readable:
            os.read(wake, 4096)
        if 0 in readable and not os.read(0, 4096):
            break
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(grace)
    if server.poll() is None:
        server.kill()
        server.wait()
    _kill_descendants()
    status = server.returncode
    return status if status is not None and status >= 0 else 128 - (status or 0)


def _socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A private folder with a path short enough for sockets in it."""
    parents = [tempfile.gettempdir(), "/tmp"]
    name = "raymill-engine-"
    fitting = [parent for parent in parents if len(parent) + len(name) + 9 <= SOCKET_FOLDER_CHARACTERS]
    return tempfile.TemporaryDirectory(prefix=name, dir=fitting[0], ignore_cleanup_errors=True)


def _kill_descendants() -> None:
    """Kill every descendant and collect it, also those that appear while this goes on."""
    while True:
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        time.sleep(0.01)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()  # the name may hold anything
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found.extend(below)
        pending.extend(below)
    return found


if __name__ == "__main__":
    sys.exit(main())
