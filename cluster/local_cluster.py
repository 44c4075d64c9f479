"""A Ray cluster of several nodes on this machine, with token authentication, that outlives the command that starts it.

Each node is a real ``ray start --block`` with its own processes; all of a node's processes carry a mark in their
environment, by which they are found and ended (see :mod:`cluster.reaper`). The token is in a file of mode 0600 in the
cluster's folder and never on a command line.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from pydantic import Field

from cluster import reaper
from cluster.config import StrictModel
from cluster.errors import InfraError, UserError
from cluster.session import QUIET_ENVIRONMENT

LOOPBACK = "127.0.0.1"
HEAD, WORKERS = "head", "workers"
START_SECONDS = 90.0
LOG_TAIL_LINES = 15
RECORD = "cluster.json"
NAME = re.compile(r"[a-z0-9][-a-z0-9]{0,39}")
"""Of a cluster; it is a folder's name, which `down` removes."""
NODE_ENVIRONMENT = {
    **QUIET_ENVIRONMENT,
    **reaper.KEEP_ENVIRONMENT,
    "RAY_AUTH_MODE": "token",
    # A task on a node whose link was cut is started elsewhere within seconds, not after minutes (measured).
    "RAY_grpc_client_keepalive_time_ms": "1000",
    "RAY_grpc_client_keepalive_timeout_ms": "2000",
}


class NodeRecord(StrictModel):
    """One node: its process, and the mark that all of its processes carry."""

    name: str
    group: str
    pid: int
    mark: str
    cpus: int


class ClusterRecord(StrictModel):
    """A local cluster as its folder records it.

    Attributes:
        address: ``host:port`` that drivers join.
        dashboard: the URL that jobs are submitted to.
        client_port: of Ray's client server, which a head always has; each cluster's on another.
        cpus: logical CPUs of each worker node.
        scale: the bounds that ``raymill cluster scale`` set for the worker nodes.
    """

    name: str
    folder: str
    temp: str
    address: str
    dashboard: str
    client_port: int
    token_file: str
    cpus: int
    object_store_bytes: int
    nodes: list[NodeRecord] = Field(default_factory=list)
    scale: tuple[int, int] | None = None
    started_s: float

    @property
    def workers(self) -> list[NodeRecord]:
        """The nodes besides the head."""
        return [node for node in self.nodes if node.group == WORKERS]


def clusters_folder() -> Path:
    """Where local clusters are recorded: RAYMILL_CLUSTERS, or the user's state folder."""
    named = os.environ.get("RAYMILL_CLUSTERS")
    return Path(named).absolute() if named else Path.home() / ".local" / "state" / "raymill" / "clusters"


def list_clusters() -> list[ClusterRecord]:
    """Every recorded local cluster, by name."""
    found = [_read(path.parent) for path in sorted(clusters_folder().glob(f"*/{RECORD}"))]
    return [record for record in found if record is not None]


def find_cluster(name: str | None) -> ClusterRecord:
    """The cluster of a name, or the only one there is.

    Raises:
        UserError: there is none, or several and no name was given.
    """
    known = list_clusters()
    if name is None and len(known) == 1:
        return known[0]
    for record in known:
        if record.name == name:
            return record
    names = ", ".join(record.name for record in known)
    what = (
        "no local cluster runs" if not known else f"no local cluster {name}" if name else "several local clusters run"
    )
    choose = f"name one of {names}" if known else "start one with `raymill cluster up`"
    raise UserError(what, next_step=f"{choose}; `submit` and `jobs` reach any other by --address")


def cluster_at(address: str) -> ClusterRecord | None:
    """The local cluster whose dashboard or head an address is."""
    bare = address.removeprefix("http://").rstrip("/").replace("localhost", LOOPBACK)
    fits = (record for record in list_clusters() if bare in (record.dashboard[len("http://") :], record.address))
    return next(fits, None)


def up(
    name: str, workers: int, cpus: int, object_store_bytes: int, say: Callable[[str], None] = lambda text: None
) -> ClusterRecord:
    """Start a head and so many worker nodes, and return when all of them have joined.

    Args:
        cpus: logical CPUs of each node, the head included.

    Raises:
        UserError: a cluster of that name runs, or it is no name.
        InfraError: a node did not start; everything started is ended again.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"is no name of a cluster: {name!r}",
            where="--name",
            next_step="use lower-case letters, digits and -, a letter or digit first, 40 at most",
        )
    folder = clusters_folder() / name
    existing = _read(folder)
    if existing is not None and any(alive(node) for node in existing.nodes):
        raise UserError(
            "it runs already", where=f"cluster {name}", next_step="`raymill cluster status`, or `raymill cluster down`"
        )
    if existing is not None:
        down(existing)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    token = folder / "token"
    token.touch(mode=0o600)
    token.chmod(0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    gcs, dashboard, client = _free_ports(3)
    record = ClusterRecord(
        name=name,
        folder=str(folder),
        temp=tempfile.mkdtemp(prefix="rmc-", dir="/tmp"),  # short: Ray's sockets below it have paths of 107 at most
        address=f"{LOOPBACK}:{gcs}",
        dashboard=f"http://{LOOPBACK}:{dashboard}",
        client_port=client,
        token_file=str(token),
        cpus=cpus,
        object_store_bytes=object_store_bytes,
        started_s=time.time(),
    )
    _write(record)
    try:
        record = _start(record, HEAD, HEAD)
        say(f"head at {record.address}, jobs at {record.dashboard}")
        record = add_workers(record, workers)
    except BaseException:
        down(_read(folder) or record)
        raise
    return record


def add_workers(record: ClusterRecord, count: int) -> ClusterRecord:
    """Start so many worker nodes, at the same time."""
    taken = {node.name for node in record.nodes}
    names = [f"worker-{index}" for index in range(1, len(taken) + count + 1) if f"worker-{index}" not in taken][:count]
    started = [(name, *_launch(record, name, WORKERS)) for name in names]
    for _, node, _, _ in started:
        record = record.model_copy(update={"nodes": [*record.nodes, node]})
        _write(record)
    for name, node, process, log in started:
        _wait(record, name, node, process, log)
    return record


def restart_node(record: ClusterRecord, node: NodeRecord) -> ClusterRecord:
    """Start a node that died again, under its name."""
    end_node(node)
    record = record.model_copy(update={"nodes": [each for each in record.nodes if each.name != node.name]})
    return _start(record, node.name, node.group)


def remove_worker(record: ClusterRecord, node: NodeRecord) -> ClusterRecord:
    """End one worker node; what it was doing is done again elsewhere."""
    end_node(node)
    record = record.model_copy(update={"nodes": [each for each in record.nodes if each.name != node.name]})
    _write(record)
    return record


def set_scale(record: ClusterRecord, bounds: tuple[int, int]) -> ClusterRecord:
    """Keep the bounds of the number of worker nodes."""
    record = record.model_copy(update={"scale": bounds})
    _write(record)
    return record


def down(record: ClusterRecord) -> None:
    """End every node, workers first, and forget the cluster; its token is gone with it."""
    for node in reversed(record.nodes):
        end_node(node)
    shutil.rmtree(record.temp, ignore_errors=True)
    shutil.rmtree(record.folder, ignore_errors=True)


def end_node(node: NodeRecord) -> None:
    """End a node's processes: those that are asked go in order, those that stay are killed."""
    known = reaper.family(node.mark)
    if alive(node):
        os.kill(node.pid, signal.SIGTERM)
    reaper.end_marked(node.mark, known=known)


def alive(node: NodeRecord) -> bool:
    """Whether the node's own process is there."""
    return node.pid in reaper.marked_processes(node.mark)


def node_environment(record: ClusterRecord, mark: str, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a node's processes, and so of the jobs on it: the caller's, but for what is Ray's."""
    kept = {name: value for name, value in base.items() if not name.startswith("RAY_") and name != reaper.MARK}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return kept | NODE_ENVIRONMENT | {"RAY_AUTH_TOKEN_PATH": record.token_file, reaper.MARK: mark}


def start_words(record: ClusterRecord, name: str, group: str) -> list[str]:
    """The command line of one node."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    words += ["--node-ip-address", LOOPBACK, "--num-cpus", str(record.cpus), "--node-name", name]
    words += ["--object-store-memory", str(record.object_store_bytes), "--labels", f"raymill.group={group}"]
    # Ray's own default is one fixed port: the second node of a machine would have no agent, and no logs of its jobs.
    words += ["--dashboard-agent-listen-port", "0"]
    # A folder each: the second node of a machine would unpack a job's files anew over those that the first works in.
    words += ["--temp-dir", str(Path(record.temp) / name)]
    if group != HEAD:
        return [*words, "--address", record.address]
    dashboard = record.dashboard.rpartition(":")[2]
    words += ["--head", "--port", record.address.rpartition(":")[2]]
    words += ["--ray-client-server-port", str(record.client_port)]
    return [*words, "--dashboard-host", LOOPBACK, "--dashboard-port", dashboard]


def _start(record: ClusterRecord, name: str, group: str) -> ClusterRecord:
    node, process, log = _launch(record, name, group)
    record = record.model_copy(update={"nodes": [*record.nodes, node]})
    _write(record)
    _wait(record, name, node, process, log)
    return record


def _launch(record: ClusterRecord, name: str, group: str) -> tuple[NodeRecord, subprocess.Popen[bytes], Path]:
    mark = secrets.token_hex(8)
    log = Path(record.folder) / f"{name}.log"
    output: IO[bytes]
    with log.open("wb") as output:
        process = subprocess.Popen(
            start_words(record, name, group),
            env=node_environment(record, mark),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives this command, and Ctrl-C in the terminal is not for it
        )
    return NodeRecord(name=name, group=group, pid=process.pid, mark=mark, cpus=record.cpus), process, log


def _wait(record: ClusterRecord, name: str, node: NodeRecord, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the node says that it runs."""
    deadline = time.monotonic() + START_SECONDS
    while "runtime started" not in (text := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            reaper.end_marked(node.mark)
            tail = "\n  ".join(text.splitlines()[-LOG_TAIL_LINES:])
            raise InfraError(
                f"node {name} did not start:\n  {tail}",
                where=f"cluster {record.name}",
                next_step="`raymill doctor` says what is missing; free memory, then repeat",
            )
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, from the system's own range, which Ray's workers do not use."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _read(folder: Path) -> ClusterRecord | None:
    try:
        return ClusterRecord.model_validate_json((folder / RECORD).read_bytes())
    except FileNotFoundError:
        return None


def _write(record: ClusterRecord) -> None:
    path = Path(record.folder) / RECORD
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(record.model_dump(mode="json"), indent=1), encoding="utf-8")
    aside.replace(path)
