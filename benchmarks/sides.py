"""The two sides of the serving benchmark: a vLLM server, and Raymill's endpoint in front of that same server."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

ROOT = Path(__file__).resolve().parents[1]
IDLE_ENGINE = Path(__file__).with_name("idle_engine.py")
START_SECONDS = 180.0
NAME = "bench"
PAIR = ("base", "copy")
AA_TEST = {
    "mode": "aa",
    "baseline": PAIR[0],
    "candidate": PAIR[1],
    "gate": "none",
    "minimum_seconds": 7200,
    "window_seconds": 5,
}
"""Observes, and decides nothing while a benchmark lasts."""


@dataclass(frozen=True)
class Target:
    """Where one side answers, and what it wants to hear."""

    host: str
    port: int
    key: str
    model: str


@dataclass(frozen=True)
class Pair:
    """Both sides.

    Attributes:
        gateways: process ids of the gateways, for the CPU time that they use.
    """

    ours: Target
    peer: Target
    gateways: tuple[int, ...]

    def gateway_cpu_seconds(self) -> float:
        """CPU time of the gateways since they started."""
        times = [psutil.Process(pid).cpu_times() for pid in self.gateways]
        return sum(each.user + each.system for each in times)


@contextmanager
def deployed(folder: Path, gateways: int, idle: int = 0) -> Iterator[Pair]:
    """The endpoint as a recipe deploys it, everything switched on; its engine's own address is the peer.

    Keys are required and limited, and an A/A rollout between two variants on the engine observes every request.

    Args:
        idle: how many more variants there are, each with an engine of its own that gets no request.
    """
    from cluster.progress import Progress
    from cluster.session import ClusterConfig, connect
    from cluster.store import open_store
    from serving.access.keys import KeyLimits
    from serving.config import ServingConfig
    from serving.control import operations, status
    from serving.control.deploy import deploy
    from serving.control.journal import Journal
    from serving.control.state import ModelSource
    from serving.engines.plan import VariantSource

    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymill-benchmark-")))
        stack.enter_context(connect(ClusterConfig()))
        tracker = stack.enter_context(Progress(stream=sys.stderr, live=False).track("serving"))
        # The rollout gives the candidate its users.
        variants: list[dict[str, object]] = [
            {"name": name, "model": "given", "weight": int(name == PAIR[0])} for name in PAIR
        ]
        sources = dict.fromkeys(PAIR, VariantSource(ModelSource(folder=str(folder))))
        for name in (f"idle{number}" for number in range(idle)):
            (place / name).mkdir()
            (place / name / "config.json").write_text("{}")
            variants.append({"name": name, "model": "given", "weight": 0, "engine": {"cpus": 0.1}})
            sources[name] = VariantSource(ModelSource(folder=str(place / name)))
        config = ServingConfig.model_validate(
            {
                "variants": variants,
                "port": 0,
                "admin_port": 0,
                "gateways": gateways,
                "auth": {"require_keys": True},
                "limits": {"max_tokens": 1024},
                "rollout": AA_TEST,
            }
        )
        store = open_store(place / "store")
        commands = {name: [sys.executable, str(IDLE_ENGINE)] for name in sources if name not in PAIR}
        deployment = stack.enter_context(deploy(config, sources, tracker, store=store, name=NAME, commands=commands))
        limits = KeyLimits(requests_per_minute=10**7, tokens_per_minute=10**9, concurrency=10_000)
        journal = Journal(store, NAME)
        _, secret = operations.create_key(journal, "bench", by="benchmark", reason="to call", limits=limits)
        status.wait_applied(store, NAME, journal.current().version, 30)
        engine = next(each for each in deployment.status() if each.name == PAIR[0]).replicas[0]
        peer = _target(engine.address, psutil.Process(engine.pid).environ()["VLLM_API_KEY"], PAIR[0])
        shown = status.read(store, NAME)
        assert shown is not None
        pids = tuple(gateway.pid for gateway in shown.gateways)
        yield Pair(_target(deployment.url, secret, NAME), peer, pids)


def _target(url: str, key: str, model: str) -> Target:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    return Target(parts.hostname, parts.port, key, model)


@contextmanager
def without_ray(folder: Path, gateways: int) -> Iterator[Pair]:
    """A vLLM server and gateways as plain processes."""
    with ExitStack() as stack:
        peer = stack.enter_context(_vllm(folder))
        port, pids, key = 0, [], f"rmk-{secrets.token_urlsafe(32)}"
        for _ in range(gateways):
            address = f"http://{peer.host}:{peer.port}"
            words = [sys.executable, "-m", "benchmarks.plain_gateway", str(port), key, peer.model, address]
            process = subprocess.Popen(
                [*words, peer.key], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(_end, process)
            assert process.stdout
            port = int(process.stdout.readline())
            pids.append(process.pid)
        yield Pair(Target("127.0.0.1", port, key, "bench"), peer, tuple(pids))


@contextmanager
def _vllm(folder: Path) -> Iterator[Target]:
    """A plain vLLM server with the flags and the environment that a replica gives it."""
    from serving.config import EngineConfig
    from serving.control.state import EngineState, ModelSource
    from serving.engines.spec import ServerSpec

    engine = EngineState(name="base", source=ModelSource(folder=str(folder)), config=EngineConfig())
    spec = ServerSpec(engine, folder, "cpu")
    key = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.parent / "vllm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            spec.command("127.0.0.1", port),
            stdout=output,
            stderr=output,
            env=spec.environment(os.environ, key),
            stdin=subprocess.PIPE,
        )
    try:
        _await_health(process, port, log)
        yield Target("127.0.0.1", port, key, "base")
    finally:
        _end(process)


def _await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"vLLM ended:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise SystemExit(f"vLLM was not ready within {START_SECONDS:g} s:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[Any]) -> None:
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
