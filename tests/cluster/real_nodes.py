"""A Ray of a head and three nodes that run work, on one machine, and apart as on several.

Each node has a network of its own behind one bridge, so that a link can really be cut; a name that the others know; its
own processes, which all end with the first of them; and a folder of its own at the place that is Ray's. The head keeps
its state in a Redis beside it. However the process that made them ends, a guard that waits for the end of its pipe ends
what is in those networks and takes them down.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.local_cluster import LOOPBACK, NODE_ENVIRONMENT
from tests.cluster.families import LIMIT_S, wait_for
from tests.cluster.namespaces import APART, ROOT, SET_UP, processes_in, run_ip, start_guard

HEAD = "head"
WORKERS = ("worker-1", "worker-2", "worker-3")
CPUS = 2
OBJECTS_BYTES = 256 << 20
GCS, REDIS, DASHBOARD = 6379, 6380, 8265
AGENT_PORTS = {
    "dashboard-agent-listen": 9101,
    "dashboard-agent-grpc": 9102,
    "runtime-env-agent": 9103,
    "metrics-export": 9104,
}
"""Every node has the same, in its own network, outside of what the system and Ray take as they need it."""


@dataclass
class Node:
    """One that was started.

    Attributes:
        process: it lasts as long as the node.
        log: what `ray start` said; beside it, without the ending, is the node's folder.
    """

    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Nodes:
    """The nodes at work.

    Attributes:
        cut: nodes whose link is down.
    """

    base: Path
    guard: subprocess.Popen[bytes] | None = None
    known: dict[str, Node] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    net: str = field(default_factory=lambda: f"10.{random.randint(64, 250)}.{random.randint(1, 250)}")
    redis: subprocess.Popen[bytes] | None = None
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
        return f"http://{self.address(HEAD)}:{DASHBOARD}"

    def address(self, name: str) -> str:
        return f"{self.net}.{10 + (HEAD, *WORKERS).index(name)}"

    def open(self) -> None:
        """Start everything; :meth:`close` also where this failed."""
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32), encoding="ascii")
        self.shown.mkdir()
        names = [f"{self.address(name)} {name}" for name in (HEAD, *WORKERS)]
        self._hosts.write_text("\n".join([f"{LOOPBACK} localhost", *names, ""]))
        spaces = [self._space(name) for name in (HEAD, *WORKERS)]
        links = [self._bridge, *(self._link(name) for name in (HEAD, *WORKERS))]
        self.guard = start_guard(self.base, links, spaces)
        self._lay_cables()
        self.redis = self._in_network(
            HEAD,
            ["redis-server", "--port", str(REDIS), "--bind", LOOPBACK, "--save", "", "--dir", str(self.base)],
            self.base / "redis.log",
        )
        self.repair()

    def close(self) -> None:
        if self.guard is not None:
            self.guard.communicate(timeout=LIMIT_S)  # its pipe closes
            assert self.guard.returncode == 0
        for process in (self.redis, *(node.process for node in self.known.values())):
            if process is not None:
                process.wait(timeout=LIMIT_S)

    def runs(self, name: str) -> bool:
        return name in self.known and self.known[name].process.poll() is None

    def repair(self) -> None:
        """Start what is not there; a node that was cut off does not come back by itself, and is started anew."""
        for name in sorted(self.cut):
            self.kill(name)
            self.mend(name)
        if not self.runs(HEAD):
            self.start(HEAD)
        self.start(*[name for name in WORKERS if not self.runs(name)])

    def start(self, *names: str) -> None:
        """Start nodes, at the same time, and return when they say that they run."""
        for name in names:
            self.known[name] = self._launch(name)
        for name in names:
            node = self.known[name]

            def ready(name: str = name, node: Node = node) -> bool:
                text = node.log.read_text(errors="replace")
                assert node.process.poll() is None, f"{name} did not start:\n{text[-3000:]}\n{last_words(node)}"
                return "runtime started" in text

            try:
                wait_for(ready, name)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{last_words(node)}") from None

    def kill(self, name: str) -> None:
        """SIGKILL for every process of a node, by the one that the others cannot be without."""
        process = self.known[name].process
        process.kill()
        process.wait(timeout=LIMIT_S)
        kept = {self.redis.pid} if name == HEAD and self.redis is not None else set()
        wait_for(lambda: set(processes_in(self._space(name))) <= kept, f"the end of {name}")

    def cut_off(self, name: str) -> None:
        """Take a node's link down; its processes live on, and hear and say nothing."""
        self.cut.add(name)
        run_ip("link", "set", self._link(name), "down")

    def mend(self, name: str) -> None:
        """Take the link up again."""
        run_ip("link", "set", self._link(name), "up")
        self.cut.discard(name)

    def with_process(self, text: str) -> set[str]:
        """The nodes besides the head that have a process with this in its command line."""
        return {name for name in WORKERS if any(text in line for line in self._command_lines(name))}

    def _command_lines(self, name: str) -> list[str]:
        found = []
        for pid in processes_in(self._space(name)):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
                words = (Path("/proc") / str(pid) / "cmdline").read_bytes()
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
        return found

    @property
    def _hosts(self) -> Path:
        return self.base / "hosts"

    @property
    def _bridge(self) -> str:
        return f"rmb{self.tag}"

    def _space(self, name: str) -> str:
        return f"rmn{self.tag}{name[-1]}"

    def _link(self, name: str) -> str:
        return f"rmv{self.tag}{name[-1]}"

    def _lay_cables(self) -> None:
        here = f"{self.net}.1"
        run_ip("link", "add", self._bridge, "type", "bridge")
        run_ip("addr", "add", f"{here}/24", "dev", self._bridge)
        run_ip("link", "set", self._bridge, "up")
        for name in (HEAD, *WORKERS):
            space = self._space(name)
            run_ip("netns", "add", space)
            run_ip("link", "add", self._link(name), "type", "veth", "peer", "name", "eth0", "netns", space)
            run_ip("link", "set", self._link(name), "master", self._bridge, "up")
            run_ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            run_ip("-n", space, "link", "set", "eth0", "up")
            run_ip("-n", space, "link", "set", "lo", "up")
            run_ip("-n", space, "route", "add", "default", "via", here)

    def _in_network(
        self, name: str, words: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._space(name), *words],
                env=environment,
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _launch(self, name: str) -> Node:
        self.launches += 1
        words = [sys.executable, "-m", "tests.cluster.start_node", "start", "--block", "--disable-usage-stats"]
        words += ["--node-name", name, "--node-ip-address", self.address(name), "--temp-dir", str(self.shown)]
        words += ["--object-store-memory", str(OBJECTS_BYTES)]
        for agent, port in AGENT_PORTS.items():
            words += [f"--{agent}-port", str(port)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment = kept | NODE_ENVIRONMENT | {"RAY_AUTH_TOKEN_PATH": str(self.token)}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"  # KubeRay's, where the head's state is in Redis
        if name == HEAD:
            words += ["--head", "--num-cpus", "0", "--port", str(GCS)]
            words += ["--dashboard-host", self.address(HEAD), "--dashboard-port", str(DASHBOARD)]
            environment["RAY_REDIS_ADDRESS"] = f"{LOOPBACK}:{REDIS}"
            environment["RAY_external_storage_namespace"] = f"raymill{self.tag}"
        else:
            words += ["--num-cpus", str(CPUS), "--address", f"{self.address(HEAD)}:{GCS}"]
        own = self.base / f"{self.launches}-{name}"  # a new one for each start, as a new pod has
        own.mkdir()
        start = [*APART, "sh", "-c", SET_UP, "sh", name, str(own), str(self.shown), str(self._hosts), *words]
        log = own.with_suffix(".log")
        return Node(self._in_network(name, start, log, environment), log)


def last_words(node: Node) -> str:
    """Of Ray's processes, from what they wrote into a node's folder."""
    found = []
    for name in ("gcs_server.out", "raylet.out", "raylet.err", "dashboard_agent.log"):
        for path in node.log.with_suffix("").glob(f"session_2*/logs/{name}"):
            found += [f"{name}:", *path.read_text(errors="replace").splitlines()[-6:]]
    return "\n".join(found)


@contextmanager
def real_nodes() -> Iterator[Nodes]:
    """Nodes that run; nothing of them is left afterwards."""
    made = Nodes(Path(tempfile.mkdtemp(prefix="rmt-", dir="/tmp")))
    try:
        made.open()
        yield made
    finally:
        made.close()
    assert not made.base.exists()
    assert made.tag not in run_ip("netns", "list") + run_ip("link", "show")
