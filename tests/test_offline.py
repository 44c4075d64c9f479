"""The demo fetches nothing: its stages, shrunken, run where no network is, from the corpus to the evaluations."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.artifact import list_artifacts
from cluster.store_local import LocalStore
from tests.test_end_to_end import SHRUNKEN

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MADE = {"corpus", "curate", "tokenizer", "tokens", "pretrain", "finetune", "evals-pretrain", "evals-finetune"}
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""A command before another, which then has a loopback of its own and nothing else."""


def test_the_demo_is_made_without_a_network(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces (unshare, ip)")
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    refused = subprocess.run([*ALONE, sys.executable, "-c", reach], capture_output=True, text=True)
    assert "Network is unreachable" in refused.stderr
    run = [sys.executable, "-m", "pipelines.cli", "run", "demo.yaml", "--until", "evals"]
    options = ["--store", str(tmp_path / "store"), *(f"--set={key}={value}" for key, value in SHRUNKEN.items())]
    done = subprocess.run([*ALONE, *run, *options], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    made = {artifact.name for artifact in list_artifacts(LocalStore(tmp_path / "store"))}
    assert made == MADE
