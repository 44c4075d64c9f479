"""However its owner ends, a minded server goes, and every process it started goes with it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serving.config import EngineConfig
from serving.control.state import EngineState, ModelSource
from serving.engines.process import MINDER, EngineProcess
from serving.engines.spec import ServerSpec

# A server with a child in a group of its own, that prints both ids; it ignores SIGTERM if told so.
SERVER = """
import os, signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
if sys.argv[1] == "quits":
    os._exit(7)
time.sleep(300)
"""
OWNER = """
import subprocess, sys, time
minder = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
time.sleep(300)
"""


def minder_command(log: Path, manner: str) -> list[str]:
    return [sys.executable, "-I", str(MINDER), "0.5", str(log), sys.executable, "-c", SERVER, manner]


def processes_in(log: Path) -> list[psutil.Process]:
    """The server and its child, once both run."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        words = log.read_text().split() if log.exists() else []
        if len(words) == 2:
            found = []
            for word in words:
                try:
                    found.append(psutil.Process(int(word)))
                except psutil.NoSuchProcess:
                    continue
            return found
        time.sleep(0.02)
    raise AssertionError("the server did not start")


SOCKETS = """
import os, socket, sys, uuid
folder = os.environ["VLLM_RPC_BASE_PATH"]
for _ in range(2):
    socket.socket(socket.AF_UNIX).bind(f"{folder}/{uuid.uuid4()}")
print(os.getpid(), folder, flush=True)
if sys.argv[1] == "quits":
    os._exit(7)
import time; time.sleep(300)
"""


@pytest.mark.parametrize("end", ["quits", "owner leaves", "SIGTERM"])
@pytest.mark.parametrize("depth", [1, 60])
def test_the_servers_sockets_have_a_folder_of_their_own_that_goes_with_it(tmp_path, end, depth):
    """Also where the folder for temporary files has a path too long for sockets."""
    temporary = tmp_path / ("t" * depth)
    temporary.mkdir()
    log = tmp_path / "log"
    minder = subprocess.Popen(
        [sys.executable, "-I", str(MINDER), "0.5", str(log), sys.executable, "-c", SOCKETS, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    folder = Path(log.read_text().split()[1])
    if end != "quits":
        assert len(list(folder.iterdir())) == 2 and folder.stat().st_mode & 0o777 == 0o700
    if end == "SIGTERM":
        minder.terminate()
    if end == "owner leaves":
        minder.stdin.close()
    minder.wait(20)
    minder.stdin.close()
    assert not folder.exists()
    assert list(temporary.iterdir()) == []


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_closing_the_pipe_ends_the_server_and_its_child(tmp_path, manner):
    log = tmp_path / "log"
    minder = subprocess.Popen(minder_command(log, manner), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    processes = processes_in(log)
    assert int(minder.stdout.readline()) == processes[0].pid
    minder.stdin.close()
    minder.wait(20)
    assert all_gone(processes)
    minder.stdout.close()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_an_owner_that_is_killed_takes_the_server_along(tmp_path, kill):
    log = tmp_path / "log"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, *minder_command(log, "polite")], stdout=subprocess.DEVNULL)
    processes = [*processes_in(log), *psutil.Process(owner.pid).children()]
    owner.send_signal(kill)
    owner.wait(20)
    assert all_gone(processes)


def test_a_server_that_ends_leaves_no_child_and_its_status_is_known(tmp_path):
    log = tmp_path / "log"
    minder = subprocess.Popen(minder_command(log, "quits"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    processes = processes_in(log)
    assert minder.wait(20) == 7
    assert all_gone(processes)
    minder.stdin.close()


def test_the_server_dies_with_a_minder_that_is_killed(tmp_path):
    log = tmp_path / "log"
    minder = subprocess.Popen(minder_command(log, "polite"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server, child = processes_in(log)
    os.kill(minder.pid, signal.SIGKILL)
    minder.wait(20)
    assert all_gone([server])
    child.kill()  # only the minder could have known of it
    minder.stdin.close()
    Path(minder.stdout.read().split()[1].decode()).rmdir()  # its owner's part here
    minder.stdout.close()


@pytest.mark.parametrize("minder_killed", [False, True])
def test_an_engines_folder_for_sockets_goes_when_it_is_stopped(tmp_path, fake_command, minder_killed):
    engine = EngineState(
        name="base", source=ModelSource(folder=str(tmp_path)), config=EngineConfig(startup_timeout_seconds=60)
    )
    spec = ServerSpec(engine, tmp_path, "cpu")
    process = EngineProcess(spec, "127.0.0.1", "key", tmp_path / "log", fake_command)
    asyncio.run(process.start())
    minder, *rest = [psutil.Process(pid) for pid in process.pids]
    folder = Path(psutil.Process(process.pid).environ()["VLLM_RPC_BASE_PATH"])
    assert folder.is_dir()
    if minder_killed:
        minder.kill()
    process.stop()
    assert not folder.exists()
    for orphan in rest if minder_killed else []:  # only the minder could have known of them
        if orphan.is_running():
            orphan.kill()
    assert all_gone([minder, *rest])
