"""What listens, and whether it asks who is there: every socket of every process of a deployment on an embedded Ray.

Nothing of ours listens beyond loopback without authentication. What Ray itself opens is on the list in
docs/security.md, with its reason; each is probed here for what it gives to somebody without the token.
"""

from __future__ import annotations

import http.client
import io
import json
import os
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


@pytest.fixture(scope="module")
def open_sockets(served: Deployment) -> list[Listener]:
    found = listeners()
    assert {"gateway", "engine", "raylet", "gcs_server"} <= {each.kind for each in found}
    return found


def allowed_kinds() -> dict[str, str]:
    """Kind of process -> reason, from the table in docs/security.md."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.partition("## What Ray itself opens")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows[1:]}


def grpc_status(port: int, method: str) -> str:
    """What a call without a token ends with."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(method)
        try:
            call(b"", timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def http_status(port: int, path: str, data: bytes | None = None, **headers: str) -> int:
    """What a request gets; 0 where HTTP is not spoken there."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return 0


def test_nothing_of_ours_listens_beyond_loopback_but_gateways(open_sockets: list[Listener], served: Deployment) -> None:
    ours = [each for each in open_sockets if each.kind in ("gateway", "engine", "driver") and each.beyond_loopback]
    public = int(served.url.rsplit(":", 1)[1].removesuffix("/v1"))
    rays = {each.port for each in ours if _is_rays(each.port)}
    assert {each.port for each in ours} - rays == {public}


def _is_rays(port: int) -> bool:
    """Whether a worker's gRPC server of Ray answers there, which asks for the token."""
    return grpc_status(port, "/ray.rpc.CoreWorkerService/GetCoreWorkerStats") == "UNAUTHENTICATED"


def test_the_gateway_wants_a_key_and_the_engines_theirs(open_sockets: list[Listener], served: Deployment) -> None:
    public = int(served.url.rsplit(":", 1)[1].removesuffix("/v1"))
    body = json.dumps({"model": "listening", "prompt": "x"}).encode()
    for path, data in (
        ("/v1/completions", body),
        ("/v1/models", None),
        ("/admin/weights", None),
        ("/admin/status", None),
    ):
        assert http_status(public, path, data, **{"Content-Type": "application/json"}) == 401, path
    assert http_status(public, "/health") == 200
    engines = [each for each in open_sockets if each.kind == "engine"]
    assert engines
    for each in engines:
        assert not each.beyond_loopback


def test_what_ray_opens_is_on_the_list(open_sockets: list[Listener], served: Deployment) -> None:
    public = int(served.url.rsplit(":", 1)[1].removesuffix("/v1"))
    listed = allowed_kinds()
    beyond = {each.kind for each in open_sockets if each.beyond_loopback and each.port != public}
    assert beyond - {"gateway", "driver", "worker"} <= listed.keys()
    assert beyond  # Ray does bind some on all interfaces, or this test looks at nothing
    assert all(listed.values())


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("gcs_server", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"),
        ("gcs_server", "/ray.rpc.InternalKVGcsService/InternalKVGet"),
        ("gcs_server", "/ray.rpc.JobInfoGcsService/GetAllJobInfo"),
        ("raylet", "/ray.rpc.NodeManagerService/GetNodeStats"),
        ("raylet", "/ray.rpc.NodeManagerService/RequestWorkerLease"),
        ("worker", "/ray.rpc.CoreWorkerService/GetCoreWorkerStats"),
        ("worker", "/ray.rpc.CoreWorkerService/PushTask"),
    ],
)
def test_ray_answers_nobody_without_the_token(open_sockets: list[Listener], kind: str, method: str) -> None:
    kinds = {"worker": ("worker", "gateway", "driver")}.get(kind, (kind,))
    answers = {grpc_status(each.port, method) for each in open_sockets if each.kind in kinds and each.beyond_loopback}
    assert "UNAUTHENTICATED" in answers
    assert "OK" not in answers


def test_over_http_ray_shows_health_and_metrics_only(open_sockets: list[Listener]) -> None:
    """A GET of any listener of Ray's without a token: refused, not HTTP, or one of the open pages."""
    private = ("/api/jobs/", "/api/serve/applications/", "/nodes", "/logs", "/api/v0/tasks")
    for each in open_sockets:
        if each.beyond_loopback and each.kind not in ("gateway", "driver", "worker"):
            for path in private:
                answer = http_status(each.port, path)
                is_metrics = answer == 200 and http_status(each.port, "/metrics") == 200
                assert answer in (0, 401, 403, 404, 405) or is_metrics, (each, path)


def test_the_token_is_in_a_file_of_ours_and_nowhere_else(open_sockets: list[Listener]) -> None:
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text(encoding="ascii")
    assert len(token) >= 64
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            said = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        assert not any(token in text for text in said), process.name()
    import ray

    logs = Path(ray._private.worker._global_node.get_logs_dir_path())  # the embedded node's own
    files = [each for each in logs.rglob("*") if each.is_file()]
    assert files
    assert [each.name for each in files if token.encode() in each.read_bytes()] == []
