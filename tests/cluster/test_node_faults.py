"""Nodes die, links are cut and the head is killed under a submitted run: it ends with the bytes of an undisturbed one.

Three nodes on this machine: the head, and two workers in network namespaces of their own behind a bridge, so that a
link can really be cut. Needs root and `ip`. The head keeps its state in a Redis.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster import reaper
from cluster.artifact import list_artifacts
from cluster.jobs_api import JobsClient
from cluster.local_cluster import NODE_ENVIRONMENT
from cluster.pending import view_of
from cluster.store_local import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: faults
corpus: {sources: [{kind: text, path: words, licence: MIT}]}
curate: {language: [], quality: [], repetition: null, dedup: {exact: true, minhash: null}, validation_fraction: 0.1}
tokenizer: {vocab_size: 300}
tokens: {sequence_length: 64}
pretrain:
  {size: nano, steps: 240, batch_sequences: 4, workers: 2, checkpoint_every_steps: 20, validation_sequences: 4,
   learning_rate: 1e-3}
"""
WORDS = "the cat sat on a mat while rain fell over old town and people read books about ships gold time"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Nodes:
    """The three nodes; ``marks`` tells each one's processes."""

    base: Path
    marks: dict[str, str] = field(default_factory=dict)
    tag: str = field(default_factory=lambda: secrets.token_hex(2))
    net: str = field(default_factory=lambda: f"10.{random.randint(64, 250)}.{random.randint(1, 250)}")
    gcs: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    redis_port: int = field(default_factory=free_port)
    client_port: int = field(default_factory=free_port)
    redis: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> Path:
        return self.base / "token"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def lay_cables(self) -> None:
        bridge = f"rmb{self.tag}"
        run_ip("link", "add", bridge, "type", "bridge")
        run_ip("addr", "add", f"{self.net}.1/24", "dev", bridge)
        run_ip("link", "set", bridge, "up")
        for number in (1, 2):
            space, outer, inner = f"rmn{self.tag}{number}", f"rmv{self.tag}{number}", f"rmi{self.tag}{number}"
            run_ip("netns", "add", space)
            run_ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            run_ip("link", "set", inner, "netns", space)
            run_ip("link", "set", outer, "master", bridge, "up")
            run_ip("netns", "exec", space, "ip", "addr", "add", f"{self.net}.{number + 1}/24", "dev", inner)
            run_ip("netns", "exec", space, "ip", "link", "set", inner, "up")
            run_ip("netns", "exec", space, "ip", "link", "set", "lo", "up")
            run_ip("netns", "exec", space, "ip", "route", "add", "default", "via", f"{self.net}.1")

    def remove_cables(self) -> None:
        for number in (1, 2):
            subprocess.run(["ip", "netns", "del", f"rmn{self.tag}{number}"], capture_output=True)
            subprocess.run(["ip", "link", "del", f"rmv{self.tag}{number}"], capture_output=True)
        subprocess.run(["ip", "link", "del", f"rmb{self.tag}"], capture_output=True)

    def cut(self, name: str) -> None:
        run_ip("link", "set", f"rmv{self.tag}{name[-1]}", "down")

    def start_redis(self) -> None:
        self.redis = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(self.redis_port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(self.base),
            ],
            stdout=subprocess.DEVNULL,
        )
        wait_for(lambda: answers(self.redis_port), "redis")

    def start(self, name: str) -> None:
        """Start one node: ``head``, ``worker-1`` or ``worker-2``."""
        mark = self.marks[name] = secrets.token_hex(8)
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        words += ["--node-name", name, "--object-store-memory", str(100 << 20), "--dashboard-agent-listen-port", "0"]
        words += ["--temp-dir", str(self.base / name)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment = kept | NODE_ENVIRONMENT | {reaper.MARK: mark, "RAY_AUTH_TOKEN_PATH": str(self.token)}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if name == "head":
            words += ["--head", "--num-cpus", "0", "--node-ip-address", f"{self.net}.1", "--port", str(self.gcs)]
            words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.dashboard_port)]
            words += ["--ray-client-server-port", str(self.client_port)]
            if self.redis is not None:
                environment |= {
                    "RAY_REDIS_ADDRESS": f"127.0.0.1:{self.redis_port}",
                    "RAY_external_storage_namespace": f"raymill{self.tag}",
                }
        else:
            environment["GLOO_SOCKET_IFNAME"] = f"rmi{self.tag}{name[-1]}"  # the host's name is elsewhere
            words = ["ip", "netns", "exec", f"rmn{self.tag}{name[-1]}", *words, "--num-cpus", "4"]
            words += ["--node-ip-address", f"{self.net}.{int(name[-1]) + 1}", "--address", f"{self.net}.1:{self.gcs}"]
        log = self.base / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return "runtime started" in log.read_text()

        wait_for(ready, f"{name}: {log}")

    def kill(self, name: str) -> None:
        """SIGKILL for every process of a node at once."""
        for pid in reaper.marked_processes(self.marks[name]):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reaper.end_marked(self.marks[name], grace_s=0)

    def end(self) -> None:
        for mark in self.marks.values():
            reaper.end_marked(mark, grace_s=0)
        if self.redis is not None:
            self.redis.kill()
            self.redis.wait()
        self.remove_cables()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def require_root() -> None:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    probe = f"rmprobe{secrets.token_hex(2)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    run_ip("netns", "del", probe)
    if shutil.which("redis-server") is None:
        subprocess.run(
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", "redis-server"], capture_output=True
        )
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server, and it could not be installed from the distribution")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its texts."""
    require_root()
    base = tmp_path_factory.mktemp("recipe")
    chance = random.Random(1)
    words = re.findall(r"\w+", WORDS)
    (base / "job" / "words").mkdir(parents=True)
    for number in range(120):
        text = ". ".join(" ".join(chance.choices(words, k=12)) for _ in range(20))
        (base / "job" / "words" / f"{number}.txt").write_text(text + ".\n")
    (base / "job" / "faults.yaml").write_text(RECIPE)
    return base


def checksums(store: LocalStore) -> dict[str, str]:
    """Every file of every artifact that the configuration alone decides."""
    found = {}
    for artifact in list_artifacts(store):
        for entry in artifact.files:
            if entry.path.endswith((".parquet", ".safetensors", ".bin", "tokenizer.json")):
                found[f"{artifact.id}/{entry.path}"] = entry.sha256
    return found


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, str]:
    """The checksums of a run on an embedded Ray that nobody disturbs."""
    store = folder / "undisturbed"
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", "faults.yaml", "--store", str(store)],
        cwd=folder / "job",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = checksums(LocalStore(store))
    assert any(name.endswith(".safetensors") for name in found)
    return found


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    base = Path(os.path.realpath(subprocess.run(["mktemp", "-d"], capture_output=True, text=True).stdout.strip()))
    made = Nodes(base)
    made.token.touch(mode=0o600)
    made.token.write_text(secrets.token_hex(32))
    try:
        made.lay_cables()
        made.start_redis()
        for name in ("head", "worker-1", "worker-2"):
            made.start(name)
        yield made
    finally:
        made.end()
        shutil.rmtree(base, ignore_errors=True)


@dataclass
class Submitted:
    """`raymill submit --follow` at work."""

    process: subprocess.Popen[str]
    log: Path
    store: LocalStore

    def said(self, text: str) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        return text in self.log.read_text()

    def checkpoints(self) -> int:
        """How many checkpoints of the training are in the store."""
        return len([item for item in self.store.files("Model/") if "checkpoint" in item.key])

    def finish(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, self.log.read_text()
        found: dict[str, Any] = json.loads(out)
        return found


def submit(folder: Path, nodes: Nodes, name: str) -> Submitted:
    store = folder / name
    log = folder / f"{name}.follow"
    words = ["submit", "faults.yaml", "--address", nodes.dashboard, "--store", str(store), "--follow", "--json"]
    words += ["--driver-cpus", "1"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words],
            cwd=folder / "job",
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN_PATH": str(nodes.token)},
        )
    return Submitted(process, log, LocalStore(store))


def client_of(nodes: Nodes) -> JobsClient:
    return JobsClient(nodes.dashboard, nodes.token.read_text())


def node_of_the_job(nodes: Nodes) -> str:
    """The worker node on which the job's own process runs."""
    client = client_of(nodes)
    (job,) = [each for each in client.jobs() if not each.over]
    listed = client.get("/api/v0/nodes?detail=1&limit=100")["data"]["result"]["result"]
    (name,) = [each["node_name"] for each in listed if each["node_id"] == job.node_id]
    return str(name)


def test_a_node_is_killed(nodes: Nodes, folder: Path, undisturbed: dict[str, str]) -> None:
    """The node with the job's own process: the follower starts the next attempt, which continues."""
    run = submit(folder, nodes, "killed")
    wait_for(lambda: run.said("[pretrain]") and run.checkpoints() > 0, "training")
    nodes.kill(node_of_the_job(nodes))
    done = run.finish()
    assert done["job"].endswith("-2")
    assert "trying again" in run.log.read_text()
    assert checksums(run.store) == undisturbed


def test_a_link_is_cut(nodes: Nodes, folder: Path, undisturbed: dict[str, str]) -> None:
    """The node without the job's process: what ran there is done again elsewhere."""
    run = submit(folder, nodes, "cut")
    wait_for(lambda: run.said("[pretrain]") and run.checkpoints() > 0, "training")
    here = node_of_the_job(nodes)
    nodes.cut("worker-1" if here == "worker-2" else "worker-2")
    run.finish()
    wait_for(lambda: len(view_of(client_of(nodes)).nodes) == 2, "the cluster's notice of the lost node")
    assert checksums(run.store) == undisturbed


def test_the_head_is_killed(nodes: Nodes, folder: Path, undisturbed: dict[str, str]) -> None:
    """With its state in Redis: the job on a worker goes on, and so does the follower when the head is back."""
    run = submit(folder, nodes, "headless")
    wait_for(lambda: run.said("[pretrain]") and run.checkpoints() > 0, "training")
    nodes.kill("head")
    assert run.process.poll() is None
    nodes.start("head")
    run.finish()
    assert "the job goes on" in run.log.read_text()
    assert checksums(run.store) == undisturbed
