"""What a gateway opens: one public socket that asks for keys, and admin calls on loopback; by the process's sockets.

Ray's own sockets are probed by tests/cluster/test_local_cluster.py, the engines' key by
tests/serving/engines/test_bearer.py.
"""

import asyncio
import importlib.util
import sys
from pathlib import Path

import aiohttp
import psutil

from serving.control.state import EngineState, ModelSource
from serving.engines.spec import ServerSpec
from serving.gateway import host as hosting
from serving.gateway.host import GatewayHost

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

OPEN_TO_ALL = {"/health", "/ready", "/-/healthz", "/metrics", "/openapi.json"}


def listening():
    """(address, port) of every listening TCP socket of this process."""
    found = psutil.Process().net_connections(kind="tcp")
    return {(each.laddr.ip, each.laddr.port) for each in found if each.status == psutil.CONN_LISTEN}


async def hosted(gateway, public):
    """The actor's own way to open sockets, without Ray around it."""
    host = GatewayHost.__new__(GatewayHost)
    host._gateway, host._node, host._port, host._admin_port = gateway, "node", 0, 0
    host._opening = asyncio.Lock()
    return await host.listen(public, 0, 0, True)


@harness.scenario(require_keys=True)
async def test_beyond_loopback_there_is_one_socket_and_it_asks_for_a_key(setup):
    hosting_before, hosting._yield_to_engines = hosting._yield_to_engines, lambda: None
    try:
        before = listening()
        opened = await hosted(setup.gateway, "0.0.0.0")
    finally:
        hosting._yield_to_engines = hosting_before
    assert listening() - before == {("0.0.0.0", opened.port), ("127.0.0.1", opened.admin_port)}
    assert {address for address, _ in listening()} <= {"0.0.0.0", "127.0.0.1"}
    paths = setup.gateway._public
    assert paths.keys() > OPEN_TO_ALL
    async with aiohttp.ClientSession(f"http://127.0.0.1:{opened.port}") as session:
        for path, methods in paths.items():
            for method in methods:
                async with session.request(method, path, json=harness.COMPLETION) as answer:
                    wanted = {200} if path in OPEN_TO_ALL else {401}
                    assert answer.status in wanted, (method, path, answer.status)
                    assert b"rmk-" not in await answer.read()


def test_an_engine_listens_where_it_is_told_and_is_guarded(tmp_path):
    engine = EngineState(name="e", source=ModelSource(folder=str(tmp_path)), config={})
    command = ServerSpec(engine, tmp_path, "cpu", sys.executable).command("127.0.0.1", 4711)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--middleware") + 1] == "raymill_bearer.BearerGuard"
    assert not any("key" in word.lower() for word in command)  # it travels by the environment, not by argv
