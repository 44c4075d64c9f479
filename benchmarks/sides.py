"""The two sides of the serving benchmark: a vLLM server, and Raymill's endpoint in front of that same server."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 180.0


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
        add_idle_variants: gives the endpoint so many more variants, each on a fake engine that no request reaches.
    """

    ours: Target
    peer: Target
    gateways: tuple[int, ...]
    add_idle_variants: Callable[[int], None] | None = None

    def gateway_cpu_seconds(self) -> float:
        """CPU time of the gateways since they started."""
        times = [psutil.Process(pid).cpu_times() for pid in self.gateways]
        return sum(each.user + each.system for each in times)


@contextmanager
def without_ray(folder: Path, gateways: int) -> Iterator[Pair]:
    """A vLLM server and gateways as plain processes."""
    with ExitStack() as stack:
        peer = stack.enter_context(_vllm(folder))
        port, pids = 0, []
        for _ in range(gateways):
            address = f"http://{peer.host}:{peer.port}"
            words = [sys.executable, "-m", "benchmarks.plain_gateway", str(port), "bench", peer.model, address]
            process = subprocess.Popen(
                [*words, peer.key], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(_end, process)
            assert process.stdout
            port = int(process.stdout.readline())
            pids.append(process.pid)
        yield Pair(Target("127.0.0.1", port, "", "bench"), peer, tuple(pids))


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


def _end(process: subprocess.Popen) -> None:  # type: ignore[type-arg]
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
