"""The serving benchmark: what its load client counts, how its figures are made, and the whole of it as a smoke test."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).parents[2]
NAMES = {"c1", "c1_stream", "c16", "c16_stream", "variants5"}


class Server(BaseHTTPRequestHandler):
    """Answers like an engine, or as ``status`` says, and writes down what it was asked."""

    protocol_version = "HTTP/1.1"
    status = 200
    seen: ClassVar[list[tuple[dict[str, str], dict]]]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((dict(self.headers), body))
        self.send_response(self.status)
        if body["stream"]:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in (b"data: {}\n\n", b"data: [DONE]\n\n"):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"seen": [], "status": 200})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_port, handler
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def client():
    load = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def apply(port, stream, concurrency=4):
        bodies = [json.dumps({"stream": stream, "prompt": str(index)}) for index in range(8)]
        settings = {"host": "127.0.0.1", "port": port, "key": "k", "bodies": bodies}
        load.stdin.write(json.dumps({**settings, "concurrency": concurrency, "seconds": 0.2}) + "\n")
        load.stdin.flush()
        return json.loads(load.stdout.readline())

    yield apply
    load.stdin.close()
    assert load.wait(10) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_every_request_is_counted_once_and_timed(server, client, stream):
    port, handler = server
    outcome = client(port, stream)
    assert outcome["failures"] == 0
    assert len(outcome["whole"]) == len(outcome["first"]) == len(handler.seen) > 4
    assert all(
        0 < first <= whole < outcome["wall"] for first, whole in zip(outcome["first"], outcome["whole"], strict=True)
    )
    assert outcome["body_bytes"] == len(handler.seen) * len("data: {}\n\ndata: [DONE]\n\n" if stream else "{}")
    assert {body["prompt"] for _, body in handler.seen} == {str(index) for index in range(8)}
    assert {headers["Authorization"] for headers, _ in handler.seen} == {"Bearer k"}
    users = {(headers["X-User-Id"], body["prompt"]) for headers, body in handler.seen}
    assert users == {(f"user-{index}", str(index)) for index in range(8)}


def test_refusals_are_failures_with_their_reason_and_end_the_load(server, client):
    port, handler = server
    handler.status = 503
    outcome = client(port, False)
    assert outcome["whole"] == [] and outcome["reason"].startswith("503")
    assert len(handler.seen) == outcome["failures"] < 20


def test_ratios_are_above_one_where_ours_is_better():
    program = """
import json, sys
sys.path[:0] = [ROOT]
from benchmarks import serving as script
fast = {"whole": [0.010] * 100, "first": [0.004] * 100, "wall": 1.0, "cpu": 0.05}
slow = {"whole": [0.020] * 50, "first": [0.008] * 50, "wall": 1.0, "cpu": 0.0}
rows = [script._rate("c1", [fast] * 3, [slow] * 3), script._time("c1_p50", "whole", [slow] * 3, [fast] * 3)]
script.show(rows)
print(json.dumps(script.report(rows, {})))
"""
    program = program.replace("ROOT", repr(str(ROOT)))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rate, time = json.loads(run.stdout.splitlines()[-1])["results"]
    assert (rate["ours"], rate["peer_value"], rate["ratio"]) == (100, 50, 2)
    assert rate["gateway_cpu_ms_per_request"] == 0.5
    assert (time["ours"], time["peer_value"], time["ratio"], time["added_ms"]) == (20, 10, 0.5, 10)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_the_whole_benchmark_runs(tmp_path):
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "serving.py"), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["benchmark"] == "serving" and {each["name"] for each in said["results"]} >= NAMES
    for each in said["results"]:
        assert each["peer"] == "vllm" and each["ours"] > 0 and each["peer_value"] > 0
        assert 0.1 < each["ratio"] < 10
    assert {"cpus", "cpu", "load_average"} <= set(said["machine"]) and said["versions"]["python"]
