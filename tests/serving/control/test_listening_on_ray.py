"""What listens while models are served: every socket of every process below this one, tried without token or key."""

from __future__ import annotations

import io
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.progress import Progress
from cluster.store import open_store
from serving.config import ServingConfig
from serving.control.deploy import Deployment, deploy
from serving.control.state import ModelSource
from serving.engines.plan import VariantSource
from tests.cluster.socket_probe import beyond_loopback, is_open

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]


@pytest.fixture(scope="module")
def served(serve_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Fakes behind a gateway that everybody on the network could call, so keys are wanted."""
    folder = tmp_path_factory.mktemp("served")
    sources = {}
    for name in ("base", "tuned"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        sources[name] = VariantSource(ModelSource(folder=str(folder / name)))
    engine = {"cpus": 0.5, "startup_timeout_seconds": 60}
    config = ServingConfig.model_validate(
        {"host": "0.0.0.0", "port": 0, "admin_port": 0, "gateways": 1, "engine": engine}
    )
    store = open_store(folder / "store")
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        deployment = deploy(
            config, sources, tracker, store=store, name="listening", logs=folder, commands=dict.fromkeys(sources, FAKE)
        )
    yield deployment
    deployment.shutdown()


@pytest.fixture(scope="module")
def processes(served: Deployment) -> list[psutil.Process]:
    found = [psutil.Process(), *psutil.Process().children(recursive=True)]
    lines = [" ".join(each.cmdline()) for each in found]
    for text in ("gcs_server", "raylet", "ray::", "fake_engine.py"):
        assert any(text in line for line in lines), text
    return found


def public_port(served: Deployment) -> int:
    return int(served.url.rsplit(":", 1)[1].removesuffix("/v1"))


def status_of(port: int, path: str, data: bytes | None = None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_beyond_loopback_only_the_gateway_and_rays_metrics_answer(
    served: Deployment, processes: list[psutil.Process]
) -> None:
    import ray

    node = ray._private.worker._global_node
    metrics = {node.metrics_export_port, node.metrics_agent_port}  # open by design: docs/security.md
    found = beyond_loopback(each.pid for each in processes)
    assert {port for _, port in found} > {public_port(served), *metrics}
    asked = {where: what for where, what in found.items() if where[1] not in {public_port(served), *metrics}}
    assert {what for where, what in asked.items() if is_open(where)} == set()
    assert not any("fake_engine.py" in what for what in found.values())


def test_the_gateway_asks_for_a_key(served: Deployment) -> None:
    port = public_port(served)
    call = json.dumps({"model": "listening", "prompt": "x"}).encode()
    for path, data in (("/v1/completions", call), ("/v1/models", None), ("/admin/weights", None)):
        assert status_of(port, path, data) == 401, path
    assert status_of(port, "/health") == 200


def test_the_token_is_in_no_command_line_no_variable_and_no_log(processes: list[psutil.Process]) -> None:
    import ray

    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_bytes()
    assert len(token) >= 64
    for each in processes:
        for kind in ("cmdline", "environ"):
            try:
                assert token not in (Path("/proc") / str(each.pid) / kind).read_bytes(), each
            except FileNotFoundError:
                continue
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    files = [each for each in logs.rglob("*") if each.is_file()]
    assert files
    assert [each.name for each in files if token in each.read_bytes()] == []
