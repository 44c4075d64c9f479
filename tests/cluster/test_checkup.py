"""What is wrong with a cluster, from what its nodes say and from what their ports answer."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster import checkup
from cluster.checkup import alive, authentication, clocks, disks, examine, gcs_port, memory, ports, token_of, versions


def node(name: str, now: float = 1000.0, **values: Any) -> dict[str, Any]:
    raylet = {"nodeName": name, "state": "ALIVE", "isHeadNode": False} | values.pop("raylet", {})
    return {"ip": "127.0.0.1", "now": now, "raylet": raylet, "mem": [100, 50, 50.0, 50], "disk": {}} | values


def test_disks_and_memory() -> None:
    def state(percent: float) -> str:
        (found,) = disks(node("a", disk={"/": {"percent": 10.0}, "/data": {"percent": percent}}))
        assert "/data" in found.found or percent < 10
        return found.state

    assert [state(50.0), state(91.0), state(98.0)] == ["ok", "warning", "missing"]
    assert list(memory(node("a"))) == []
    assert [found.state for found in memory(node("a", mem=[100, 1, 99.0, 99]))] == ["warning"]


def test_clocks_apart_are_found() -> None:
    nodes = [node("a", 1000.0), node("b", 1004.0)]
    assert clocks(0.4, nodes).state == "ok"
    assert clocks(-120.0, nodes).state == "warning"
    late = clocks(0.0, [node("a", 1000.0), node("b", 900.0)])
    assert late.state == "warning"
    assert "b is behind" in late.found
    assert clocks(None, []).state == "ok"


def test_dead_nodes_and_other_versions_are_found() -> None:
    (found,) = alive([node("a"), node("b", raylet={"state": "DEAD"})])
    assert (found.state, found.found) == ("warning", "1 alive; died: b")
    states = {each.check: each.state for each in versions({"ray_version": "2.1.0", "python_version": "3.9.1"})}
    assert states == {"ray version": "warning", "python version": "warning"}


@pytest.fixture
def web(request: pytest.FixtureRequest) -> Iterator[str]:
    """A dashboard that answers every request with one status."""
    status = request.param

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("web", "state"), [(200, "missing"), (401, "ok"), (500, "warning")], indirect=["web"])
def test_a_dashboard_without_authentication_is_found(web: str, state: str) -> None:
    assert authentication(web).state == state


class Refuses(grpc.GenericRpcHandler):
    """Answers every call with one status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(self.code, "no")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize(
    ("code", "state"), [(grpc.StatusCode.UNAUTHENTICATED, "ok"), (grpc.StatusCode.INVALID_ARGUMENT, "missing")]
)
def test_ports_that_ask_for_no_token_are_found(code: grpc.StatusCode, state: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Refuses(code),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (found,) = ports(node("a", raylet={"nodeManagerPort": port, "metricsExportPort": 1}))
    server.stop(None)
    assert found.state == state
    assert (f"nodeManagerPort {port}" in found.found) is (state == "missing")


def test_the_port_of_rays_client_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Refuses(grpc.StatusCode.INVALID_ARGUMENT),))
    monkeypatch.setattr(checkup, "CLIENT_PORT", server.add_insecure_port("127.0.0.1:0"))
    server.start()
    (head,) = ports(node("a", raylet={"isHeadNode": True}))
    (worker,) = ports(node("b"))
    server.stop(None)
    assert (head.state, head.found) == ("missing", f"no token asked for: rayClient {checkup.CLIENT_PORT}")
    assert worker.state == "ok"


class Dashboard:
    """A client of a cluster of two nodes; the agent of one never reported, so that no more than its raylet is known."""

    address = "http://127.0.0.1:9"

    def get(self, path: str) -> Any:
        if "metadata" in path:
            return {"data": {"rayVersion": "2.60.0", "pythonVersion": "3.11.7"}}
        mute = {"raylet": {"nodeName": "worker-1", "state": "ALIVE", "nodeManagerAddress": "127.0.0.1"}, "tpus": []}
        dead = {"raylet": {"nodeId": "ab", "state": "DEAD"}, "tpus": []}
        return {"data": {"summary": [node("head", disk={"/": {"percent": 96.0}}), mute, dead]}}


def test_a_token_that_others_may_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("x")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    states = []
    for mode in (0o600, 0o640):
        file.chmod(mode)
        (found,) = token_of(Dashboard.address)
        states.append((found.state, found.fix))
    assert states == [("ok", ""), ("warning", f"chmod 600 {file}")]


def test_a_node_whose_agent_is_silent_is_found_and_the_rest_looked_at() -> None:
    client: Any = Dashboard()
    found = {each.check: each for each in examine(client)}
    assert (found["agent of worker-1"].state, found["nodes"].found) == ("warning", "2 alive; died: ab")
    assert "dashboard_agent.log" in found["agent of worker-1"].fix
    assert found["disk of head"].state == "missing"
    assert "disk of worker-1" not in found
    assert found["ports of worker-1"].found == "none can be reached from here"


def test_ports_that_cannot_be_reached_are_no_problem() -> None:
    (found,) = ports(node("a", raylet={"nodeManagerPort": 9}))
    assert (found.state, found.found) == ("ok", "none can be reached from here")
    assert gcs_port({"gcs": {"cmdline": ["gcs_server", "--gcs_server_port=6379"]}}) == 6379
    assert gcs_port({}) == 0
