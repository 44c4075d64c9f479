"""What listens, and whether it asks who is there: every socket of every process of a deployment on an embedded Ray.

Nothing of ours listens beyond loopback without authentication. What Ray itself opens is on the list in
docs/security.md, with its reason; each is probed here for what it gives to somebody without the token.
"""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.progress import Progress
from cluster.store import open_store
from serving.config import ServingConfig
from serving.control.deploy import Deployment, deploy
from serving.control.state import ModelSource
from serving.engines.plan import VariantSource

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[3]
FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]


@dataclass(frozen=True)
class Listener:
    """One listening TCP socket, and what kind of process has it."""

    kind: str
    address: str
    port: int

    @property
    def beyond_loopback(self) -> bool:
        return not self.address.startswith("127.") and self.address != "::1"


KINDS = (
    ("gcs_server", "gcs_server"),
    ("raylet/raylet", "raylet"),
    ("runtime_env/agent", "runtime environment agent"),
    ("runtime_env_agent", "runtime environment agent"),
    ("dashboard/agent.py", "dashboard agent"),
    ("dashboard.py", "dashboard"),
    ("monitor.py", "monitor"),
    ("log_monitor", "log monitor"),
    ("fake_engine.py", "engine"),
    ("GatewayHost", "gateway"),
    ("ray::", "worker"),
    ("default_worker.py", "worker"),
    ("resource_tracker", "resource tracker"),
    ("pytest", "driver"),
)


def kind_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((kind for word, kind in KINDS if word in line), line[:80])


def listeners() -> list[Listener]:
    """Of this process and all below it."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            for each in process.net_connections(kind="tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found.append(Listener(kind_of(process), each.laddr.ip, each.laddr.port))
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile, or is another user's
            continue
    return sorted(set(found), key=lambda each: (each.kind, each.port))


def test_show(served: Deployment) -> None:
    for each in listeners():
        print(each)
    assert 0


@pytest.fixture(scope="module")
def served(serve_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two fakes behind a gateway that everybody on the network could call, so keys are wanted."""
    folder = tmp_path_factory.mktemp("served")
    sources = {}
    for name in ("base", "tuned"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        sources[name] = VariantSource(ModelSource(folder=str(folder / name)))
    engine: dict[str, Any] = {"cpus": 0.5, "startup_timeout_seconds": 60}
    config = ServingConfig.model_validate(
        {"host": "0.0.0.0", "port": 0, "admin_port": 0, "gateways": 1, "engine": engine}
    )
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        deployment = deploy(
            config,
            sources,
            tracker,
            store=open_store(folder / "store"),
            name="listening",
            logs=folder,
            commands={"base": FAKE, "tuned": FAKE},
        )
    yield deployment
    deployment.shutdown()
