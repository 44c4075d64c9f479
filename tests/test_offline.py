"""The demo's data stages fetch nothing: they run where no network is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.artifact import list_artifacts
from cluster.store_local import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""A command before another, which then has a loopback of its own and nothing else."""


def test_the_demos_data_stages_run_without_a_network(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces (unshare, ip)")
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    refused = subprocess.run([*ALONE, sys.executable, "-c", reach], capture_output=True, text=True)
    assert "Network is unreachable" in refused.stderr
    run = [sys.executable, "-m", "pipelines.cli", "run", "demo.yaml", "--until", "tokens"]
    options = ["--store", str(tmp_path / "store"), "--set=corpus.sources.0.max_bytes=300_000"]
    done = subprocess.run([*ALONE, *run, *options], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    made = {artifact.name for artifact in list_artifacts(LocalStore(tmp_path / "store"))}
    assert made == {"corpus", "curate", "tokenizer", "tokens"}
