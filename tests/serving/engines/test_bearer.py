"""The guard around a vLLM server: an application of the framework that vLLM uses, in process."""

import os
import subprocess
import sys

import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from serving.config import EngineConfig
from serving.control.state import EngineState, ModelSource
from serving.engines.beside.raymill_bearer import BearerGuard
from serving.engines.spec import ServerSpec

PATHS = ("/invocations", "/adapters", "/tokenize", "/pooling", "/version", "/v1/models", "/health/", "/metrics/x", "//")


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    app = FastAPI()
    app.add_middleware(BearerGuard)

    @app.websocket("/v1/realtime")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE", "OPTIONS"])
    async def answer(path: str) -> str:
        return path

    with TestClient(app) as made:
        yield made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_every_path_and_method_wants_the_key(client, path, method):
    assert client.request(method, path).status_code == 401
    assert client.request(method, path, headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize("given", ["Bearer", "Bearer ", "Bearer secre", "Bearer secrett", "Basic secret", "secret"])
def test_something_like_the_key_is_not_enough(client, given):
    assert client.get("/v1/models", headers={"Authorization": given}).status_code == 401
    two = [("Authorization", "Bearer secret"), ("Authorization", given)]
    assert client.get("/v1/models", headers=two).status_code == 401


def test_bytes_beyond_ascii_are_refused_and_no_error(client):
    assert client.get("/v1/models", headers=[(b"authorization", b"Bearer \xff\xe9")]).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_health_and_metrics_are_open(client, path):
    assert client.get(path).status_code == 200


def test_sockets_want_the_key_too(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime"):
        pass
    with client.websocket_connect("/v1/realtime", headers={"Authorization": "bearer secret"}) as socket:
        assert socket.receive_text() == "hello"


def test_without_a_key_there_is_no_server(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="answer anybody"):
        BearerGuard(FastAPI())


@pytest.mark.parametrize("python", [None, sys.executable])
def test_whatever_interpreter_runs_the_server_finds_the_guard(tmp_path, python):
    engine = EngineState(name="e", source=ModelSource(folder=str(tmp_path)), config=EngineConfig(python=python))
    spec = ServerSpec(engine, tmp_path, "cpu", sys.executable)
    words = spec.command("127.0.0.1", 1)
    module, _, name = words[words.index("--middleware") + 1].rpartition(".")
    environment = spec.environment({**os.environ, "PYTHONPATH": "/somewhere"}, "k")
    # -S: without site-packages, so that nothing of this project can be found but what PYTHONPATH leads to.
    found = subprocess.run(
        [sys.executable, "-S", "-c", f"import {module}; print({module}.{name}.__name__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout.strip(), found.stderr) == ("BearerGuard", "")
    assert ("/somewhere" in environment["PYTHONPATH"]) == (python is None), "its own interpreter keeps what it had"
