"""What keeps nodes on one machine apart, network namespaces above all; and a guard that takes them away.

As a program it is the guard: it waits for the end of its pipe, so that it acts however the process that made them ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster.families import LIMIT_S

ROOT = Path(__file__).resolve().parents[2]
APART = ("unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
"""A command before another, which then sees its own processes and what is mounted for it; all end with the first."""
SET_UP = """
set -e
hostname "$1"
mount --bind "$2" "$3"
mount --bind "$4" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
shift 4
"$@"
exit $?
"""
"""A shell's words, in which a node begins: it knows the names of the others, and asks no server for any.

The shell stays, and collects what lost its parent.
"""


def why_no_namespaces() -> str:
    """Why nodes cannot be apart here; empty where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "namespaces need the commands ip (iproute2) and unshare (util-linux)"
    name = f"rmp{secrets.token_hex(3)}"
    tries = (
        ["ip", "netns", "add", name],
        ["ip", "link", "add", name, "type", "bridge"],
        ["ip", "netns", "exec", name, *APART, "hostname", name],
    )
    done = [subprocess.run(words, capture_output=True, text=True) for words in tries]
    for words in (["link", "del", name], ["netns", "del", name]):
        subprocess.run(["ip", *words], capture_output=True)
    said = "; ".join(each.stderr.strip() for each in done if each.returncode)
    return f"this machine makes no namespaces: {said}" if said else ""


def why_no_redis() -> str:
    """Why there is no Redis here, also after an attempt to install it from the distribution; empty where there is."""
    if shutil.which("redis-server"):
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "redis-server is not installed, and only root on a Debian can install it"
    words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "redis-server"]
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # the machine's own is not started
    subprocess.run(["apt-get", "update", "-q"], capture_output=True, timeout=LIMIT_S)
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, env=quietly)
    return "" if shutil.which("redis-server") else f"redis-server cannot be installed: {done.stderr.strip()[-300:]}"


def run_ip(*words: str) -> str:
    """What `ip` says."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def processes_in(space: str) -> list[int]:
    """Ids of the processes in a network."""
    return [int(word) for word in run_ip("netns", "pids", space).split()]


def start_guard(folder: Path, links: Sequence[str], spaces: Sequence[str]) -> subprocess.Popen[bytes]:
    """The guard of these; it acts when its standard input closes."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.namespaces", str(folder), ",".join(links), *spaces],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,  # what ends this process must not end it
    )


def guard(folder: str, links: list[str], spaces: list[str]) -> None:
    """Wait for the end of standard input, then take everything away."""
    sys.stdin.read()
    there = set(run_ip("netns", "list").split()).intersection(spaces)
    for space in there:
        while left := processes_in(space):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    # Links first: those of a network that is deleted go some time later.
    for words in (*(["link", "del", link] for link in links), *(["netns", "del", space] for space in there)):
        subprocess.run(["ip", *words], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(sys.argv[1], sys.argv[2].split(","), sys.argv[3:])
