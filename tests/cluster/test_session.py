"""An embedded Ray starts with token authentication and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import reaper
from cluster.errors import InfraError, UserError
from cluster.session import ClusterConfig, connect

pytestmark = pytest.mark.ray


def gone(mark: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not reaper.marked_processes(mark):
            return True
        time.sleep(0.1)
    return False


def test_embedded_ray_works_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # of a cluster that this one has nothing to do with
    said: list[str] = []
    before = os.environ.get("RAY_AUTH_MODE")
    with connect(ClusterConfig(logical_cpus=3), said.append):
        mark = os.environ[reaper.MARK]
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o077 == 0
        assert ray.cluster_resources()["CPU"] == 3
        assert ray.get(ray.remote(lambda: os.environ[reaper.MARK]).remote()) == mark
        assert len(reaper.marked_processes(mark)) > 3
    assert reaper.marked_processes(mark) == []
    assert os.environ.get("RAY_AUTH_MODE") == before
    assert "3 logical CPUs" in said[0]


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
    assert Path(token).exists()
    assert len(reaper.marked_processes(mark)) > 3
    driver.kill()
    driver.wait()
    assert gone(mark, 30)
    deadline = time.monotonic() + 10
    while Path(token).parent.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(token).parent.exists()


def test_address_that_is_none_and_address_without_a_listener() -> None:
    with pytest.raises(UserError, match="is not an address"), connect(ClusterConfig(address="somewhere")):
        pass
    with pytest.raises(InfraError, match="nothing answers there"), connect(ClusterConfig(address="127.0.0.1:9")):
        pass
