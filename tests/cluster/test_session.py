"""An embedded Ray starts with token authentication and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cluster import reaper
from cluster.checkup import open_by_design
from cluster.errors import InfraError, UserError
from cluster.session import ClusterConfig, connect
from tests.cluster.families import family, wait_for
from tests.cluster.socket_probe import beyond_loopback, is_open

pytestmark = pytest.mark.ray
AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}


def command_line(pid: int) -> str:
    """Empty where there is no such process."""
    try:
        return (reaper.PROCESSES / str(pid) / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_embedded_ray_works_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # another cluster is none of its business
    said: list[str] = []
    before = os.environ.get("RAY_AUTH_MODE")
    elsewhere = beyond_loopback([os.getpid()])
    with connect(ClusterConfig(logical_cpus=3), said.append):
        mark = os.environ[reaper.MARK]
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o077 == 0
        assert ray.cluster_resources()["CPU"] == 3
        assert ray.get(ray.remote(lambda: os.environ[reaper.MARK]).remote()) == mark
        assert len(reaper.marked_processes(mark)) > 3
        processes = {os.getpid(), *family(mark)}
        opened = {where: what for where, what in beyond_loopback(processes).items() if where not in elsewhere}
        assert len(opened) > 4
        agent = {"metricsAgentPort": ray._private.worker._global_node.metrics_agent_port}  # type: ignore[attr-defined]
        allowed = open_by_design(ray.nodes()[0] | agent)
        assert {what for where, what in opened.items() if where[1] not in allowed and is_open(where)} == set()
        assert shown(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_bytes(), processes) == []
    assert reaper.marked_processes(mark) == []
    assert os.environ.get("RAY_AUTH_MODE") == before
    assert "3 logical CPUs" in said[0]


def shown(secret: bytes, processes: set[int]) -> list[str]:
    """Where a secret stands in the arguments or the variables of processes."""
    found = []
    for pid in processes:
        for kind in ("cmdline", "environ"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
                if secret in (Path("/proc") / str(pid) / kind).read_bytes():
                    found.append(f"{kind} of {pid}")
    return found


def test_a_killed_driver_leaves_no_process() -> None:
    code = (
        "import os, time\n"
        "from cluster import reaper\n"
        "from cluster.session import ClusterConfig, connect\n"
        "with connect(ClusterConfig(logical_cpus=2)):\n"
        "    print(os.environ[reaper.MARK], os.environ['RAY_AUTH_TOKEN_PATH'], flush=True)\n"
        "    time.sleep(100)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    mark, token = driver.stdout.readline().split()
    folder = Path(token).parent
    assert folder.exists()

    def agents() -> set[str]:
        """Titles of those of Ray's processes that write one and have no driver or worker to end them."""
        return {name for name in AGENTS for pid in family(mark) if name in command_line(pid)}

    wait_for(lambda: agents() == AGENTS, "Ray's agents")
    theirs = reaper.family(mark)
    assert len(theirs) > 3
    driver.kill()
    driver.wait()
    wait_for(lambda: not folder.exists(), "the guard's last deed")
    assert [process for process in theirs if reaper.runs(process)] == []
    assert reaper.family(mark) == set()


def test_address_that_is_none_and_address_without_a_listener() -> None:
    with pytest.raises(UserError, match="is not an address"), connect(ClusterConfig(address="somewhere")):
        pass
    with pytest.raises(InfraError, match="nothing answers there"), connect(ClusterConfig(address="127.0.0.1:9")):
        pass


def test_the_guides_own_cluster_is_joined_with_its_token(tmp_path: Path) -> None:
    """docs/serving.md: the token's file and ``ray start``, word by word, but for the port."""
    guide = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    shown = re.search(r"```sh\n(mkdir .*)\n(RAY_AUTH_MODE=token ray start .*)\n```", guide)
    assert shown is not None
    make_token, start = shown.groups()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ray keeps these for workers.
    port = port if port < 10_000 or port >= 20_000 else 9_000 + port % 900
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PATH": binaries}
    subprocess.run(["sh", "-c", make_token], env=environment, check=True)
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert "--port 6379" in start
    words = start.replace("ray start", "exec ray start").replace("6379", str(port))
    with (tmp_path / "log").open("w") as log:
        ray = subprocess.Popen(
            ["sh", "-c", f"{words} --num-cpus 1 --block"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 60
        while "runtime started" not in (tmp_path / "log").read_text():
            assert ray.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        joining = (
            "from cluster.session import ClusterConfig, connect\n"
            f"with connect(ClusterConfig(address='127.0.0.1:{port}')):\n"
            "    import os, ray\n"
            "    print(os.environ['RAY_AUTH_MODE'], ray.get(ray.remote(lambda: 7).remote()))\n"
        )
        joined = subprocess.run(
            [sys.executable, "-c", joining], env=environment, capture_output=True, text=True, timeout=90
        )
        assert joined.stdout == "token 7\n", joined.stderr
    finally:
        ray.terminate()
        ray.wait(60)
