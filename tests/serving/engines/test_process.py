"""Why a server did not come up: what vLLM says against the model is final, what killed it may pass."""

import asyncio
import sys

import pytest

from cluster.errors import InfraError, UserError
from serving.config import EngineConfig
from serving.control.state import EngineState, ModelSource
from serving.engines import process
from serving.engines.process import EngineProcess, killed_by
from serving.engines.spec import ServerSpec

SAYS = "print('(APIServer pid=1) ValueError: this model is not to my taste', flush=True)"
KILLS_ITSELF = "import os; os.kill(os.getpid(), 9)"
FAILS_AT_ITS_FIRST_REQUEST = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        if not {answers}:
            os.kill(os.getpid(), 9)
        self.send_error(500, "EngineCore encountered an issue")
        self.wfile.flush()
        if {answers} == 2:
            os._exit(1)

http.server.HTTPServer(("127.0.0.1", int(os.environ["RAYMILL_ENGINE_PORT"])), Handler).serve_forever()
"""


def start(tmp_path, code):
    config = EngineConfig(startup_timeout_seconds=60)
    engine = EngineState(name="e", source=ModelSource(folder=str(tmp_path)), config=config)
    spec = ServerSpec(engine, tmp_path, "cpu", sys.executable)
    server = EngineProcess(spec, "127.0.0.1", "key", tmp_path / "log", [sys.executable, "-c", code])
    asyncio.run(server.start())


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (f"{SAYS}; raise SystemExit(1)", UserError, "refuses the model: this model is not to my taste"),
        (KILLS_ITSELF, InfraError, "killed by SIGKILL while it started, and its log does not say why"),
        (f"{SAYS}; {KILLS_ITSELF}", InfraError, "killed by SIGKILL while it started: this model"),
        ("raise SystemExit(1)", InfraError, "ended with status 1 while it started"),
        ("raise MemoryError('x')", InfraError, "ended with status 1 while it started: MemoryError: x"),
        (FAILS_AT_ITS_FIRST_REQUEST.replace("{answers}", "0"), InfraError, "killed by SIGKILL"),
        (FAILS_AT_ITS_FIRST_REQUEST.replace("{answers}", "2"), InfraError, "status 1 while it started: "),
        (FAILS_AT_ITS_FIRST_REQUEST.replace("{answers}", "1"), UserError, "refuses the model: <!DOCTYPE"),
    ],
    ids=[
        "refused",
        "killed",
        "killed after a word",
        "silent",
        "no memory",
        "killed at once",
        "died at once",
        "fails at once",
    ],
)
def test_only_what_vllm_says_against_the_model_is_the_models_fault(tmp_path, monkeypatch, code, error, said):
    monkeypatch.setattr(process, "POLL_INTERVAL_S", 0.02)
    monkeypatch.setattr(process, "DYING_S", 0.5)
    with pytest.raises(error, match=said) as caught:
        start(tmp_path, code)
    assert type(caught.value) is error
    assert str(tmp_path / "log") in caught.value.next_step


def test_a_status_above_128_is_a_signals_and_so_is_a_negative_one():
    assert [killed_by(status) for status in (137, -9, 143, None, 0, 1, 128, 255)] == [
        "SIGKILL",
        "SIGKILL",
        "SIGTERM",
        *[""] * 5,
    ]
