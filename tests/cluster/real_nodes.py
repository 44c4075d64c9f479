"""A Ray of a head and three nodes that run work, on one machine, and apart as on several.

The nodes are in network namespaces behind one bridge, so that a link can really be cut. Each sees only its own
processes, by which Ray tells on which node a driver is, and a folder of its own at the place that is Ray's. The head
keeps its state in Redis. However the process that made them ends, a guard that waits for the end of its pipe ends every
process of theirs and takes the networks down.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster import reaper
from cluster.local_cluster import LOOPBACK, NODE_ENVIRONMENT
from tests.cluster.families import LIMIT_S, family, kill_family, wait_for

ROOT = Path(__file__).resolve().parents[2]
HEAD = "head"
WORKERS = ("worker-1", "worker-2", "worker-3")
CPUS = 2
OBJECTS_BYTES = 256 << 20


APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""A command before another, which then sees its own processes and what is mounted for it; all end with the first."""


def why_no_namespaces() -> str:
    """Why nodes cannot be apart here; empty where they can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "namespaces need the commands ip (iproute2) and unshare (util-linux)"
    name = f"rmp{secrets.token_hex(3)}"
    for words in (["ip", "netns", "add", name], [*APART, "ip", "netns", "exec", name, "true"]):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            break
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"this machine makes no namespaces: {done.stderr.strip()}" if done.returncode else ""


def why_no_redis() -> str:
    """Why there is no Redis here, also after an attempt to install it from the distribution; empty where there is."""
    if shutil.which("redis-server"):
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "redis-server is not installed, and only root on a Debian can install it"
    words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "redis-server"]
    subprocess.run(["apt-get", "update", "-q"], capture_output=True, timeout=LIMIT_S)
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S)
    return "" if shutil.which("redis-server") else f"redis-server cannot be installed: {done.stderr.strip()[-300:]}"


def run_ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass
class Nodes:
    """The nodes at work.

    Attributes:
        marks: by node, what its processes carry in their environment.
    """

    base: Path
    guard: subprocess.Popen[bytes] | None = None
    marks: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    net: str = field(default_factory=lambda: f"10.{random.randint(64, 250)}.{random.randint(1, 250)}")
    gcs: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    redis_port: int = field(default_factory=free_port)
    client_port: int = field(default_factory=free_port)
    launches: int = 0

    @property
    def token(self) -> Path:
        return self.base / "token"

    @property
    def shown(self) -> Path:
        """Where every node sees its own folder; short, since Ray's sockets are in it."""
        return self.base / "ray"

    @property
    def dashboard(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard_port}"

    def open(self) -> None:
        """Start everything; :meth:`close` also where this failed."""
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32), encoding="ascii")
        away = [["link", "del", self._link(name)] for name in WORKERS]
        away += [["netns", "del", self._space(name)] for name in WORKERS]
        away += [["link", "del", f"rmb{self.tag}"]]
        self.guard = subprocess.Popen(
            [sys.executable, __file__, str(self.base), json.dumps(away)],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,  # what ends this process must not end it
        )
        self.shown.mkdir()
        self._lay_cables()
        self._start_redis()
        self.repair()

    def close(self) -> None:
        assert self.guard is not None
        self.guard.communicate(timeout=LIMIT_S)  # its pipe closes
        for process in self.started:
            process.wait(timeout=LIMIT_S)

    def repair(self) -> None:
        """Start what is not there."""
        for name in (HEAD, *WORKERS):
            if self.processes(name) and not any("raylet/raylet" in line for line in self.command_lines(name)):
                self.kill(name)  # half a node
        if not self.processes(HEAD):
            self.start(HEAD)
        self.start(*[name for name in WORKERS if not self.processes(name)])

    def start(self, *names: str) -> None:
        """Start nodes, at the same time, and return when they say that they run."""
        logs = [self._launch(name) for name in names]
        for name, (process, log) in zip(names, logs, strict=True):

            def ready(name: str = name, process: subprocess.Popen[bytes] = process, log: Path = log) -> bool:
                text = log.read_text(errors="replace")
                assert process.poll() is None, f"{name} did not start:\n{text[-3000:]}"
                return "runtime started" in text

            try:
                wait_for(ready, name)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{last_words(log.with_suffix(''))}") from None

    def processes(self, name: str) -> set[int]:
        """Ids of a node's processes."""
        return family(self.marks[name]) if name in self.marks else set()

    def kill(self, name: str) -> None:
        """SIGKILL for every process of a node."""
        kill_family(self.marks[name])

    def command_lines(self, name: str) -> list[str]:
        """Of a node's processes."""
        found = []
        for pid in self.processes(name):
            try:
                words = (Path("/proc") / str(pid) / "cmdline").read_bytes()
            except FileNotFoundError:  # it ended while we looked
                continue
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def with_process(self, text: str) -> set[str]:
        """The nodes besides the head that have a process with this in its command line."""
        return {name for name in WORKERS if any(text in line for line in self.command_lines(name))}

    def _mark(self, name: str) -> str:
        mark = self.marks[name] = secrets.token_hex(8)
        assert self.guard is not None and self.guard.stdin is not None
        self.guard.stdin.write(f"{mark}\n".encode())
        self.guard.stdin.flush()
        return mark

    def _space(self, name: str) -> str:
        return f"rmn{self.tag}{name[-1]}"

    def _link(self, name: str) -> str:
        return f"rmv{self.tag}{name[-1]}"

    def _address(self, name: str) -> str:
        return f"{self.net}.{1 if name == HEAD else int(name[-1]) + 1}"

    def _lay_cables(self) -> None:
        bridge = f"rmb{self.tag}"
        run_ip("link", "add", bridge, "type", "bridge")
        run_ip("addr", "add", f"{self._address(HEAD)}/24", "dev", bridge)
        run_ip("link", "set", bridge, "up")
        for name in WORKERS:
            space = self._space(name)
            run_ip("netns", "add", space)
            run_ip("link", "add", self._link(name), "type", "veth", "peer", "name", "eth0", "netns", space)
            run_ip("link", "set", self._link(name), "master", bridge, "up")
            run_ip("-n", space, "addr", "add", f"{self._address(name)}/24", "dev", "eth0")
            run_ip("-n", space, "link", "set", "eth0", "up")
            run_ip("-n", space, "link", "set", "lo", "up")
            run_ip("-n", space, "route", "add", "default", "via", self._address(HEAD))

    def _start_redis(self) -> None:
        # Redis writes its title over its environment: what carries the mark, and ends it, is what is before it.
        words = [*APART, "redis-server", "--port", str(self.redis_port), "--bind", LOOPBACK, "--save", "", "--dir"]
        process = subprocess.Popen(
            [*words, str(self.base)],
            env=os.environ | {reaper.MARK: self._mark("redis")},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started.append(process)
        wait_for(lambda: listens(self.redis_port), "Redis")

    def _launch(self, name: str) -> tuple[subprocess.Popen[bytes], Path]:
        self.launches += 1
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        words += ["--node-name", name, "--node-ip-address", self._address(name), "--temp-dir", str(self.shown)]
        words += ["--object-store-memory", str(OBJECTS_BYTES)]
        # For a port that an agent chooses itself Ray waits 15 seconds, which on a busy machine is too little.
        for option in ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export"):
            words += [f"--{option}-port", str(free_port())]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment = kept | NODE_ENVIRONMENT | {reaper.MARK: self._mark(name), "RAY_AUTH_TOKEN_PATH": str(self.token)}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"  # KubeRay's, where the head's state is in Redis
        if name == HEAD:
            words += ["--head", "--num-cpus", "0", "--port", str(self.gcs), "--ray-client-server-port"]
            words += [str(self.client_port), "--dashboard-host", LOOPBACK, "--dashboard-port", str(self.dashboard_port)]
            environment["RAY_REDIS_ADDRESS"] = f"{LOOPBACK}:{self.redis_port}"
            environment["RAY_external_storage_namespace"] = f"raymill{self.tag}"
        else:
            words += ["--num-cpus", str(CPUS), "--address", f"{self._address(HEAD)}:{self.gcs}"]
            words = ["ip", "netns", "exec", self._space(name), *words]
            environment["GLOO_SOCKET_IFNAME"] = "eth0"  # the machine's name means an address that is not here
        own = self.base / f"{self.launches}-{name}"  # a new one for each start, as a new pod has
        own.mkdir()
        words = [*APART, "sh", "-c", f'mount --bind {own} {self.shown} && "$@"; exit $?', "sh", *words]
        log = own.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process, log


def last_words(folder: Path) -> str:
    """Of Ray's processes, from what they wrote into a node's folder."""
    found = []
    for name in ("gcs_server.out", "raylet.out", "raylet.err", "dashboard_agent.log"):
        for path in folder.glob(f"session_2*/logs/{name}"):
            found += [f"{name}:", *path.read_text(errors="replace").splitlines()[-6:]]
    return "\n".join(found)


def listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def real_nodes() -> Iterator[Nodes]:
    """Nodes that run; nothing of them is left afterwards."""
    made = Nodes(Path(tempfile.mkdtemp(prefix="rmt-", dir="/tmp")))
    try:
        made.open()
        yield made
    finally:
        made.close()
    left = [pid for mark in made.marks.values() for pid in reaper.marked_processes(mark)]
    assert left == []


def guard(folder: str, networks: list[list[str]]) -> None:
    """Wait for the end of standard input, which names a mark a line; then take everything away.

    Args:
        networks: what to tell `ip`, word by word.
    """
    for mark in sys.stdin.read().split():
        kill_family(mark)
    for words in networks:
        subprocess.run(["ip", *words], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(sys.argv[1], json.loads(sys.argv[2]))
