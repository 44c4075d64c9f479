"""What is wrong with a Ray cluster, looked at from outside: authentication, versions, clocks, disks, nodes."""

from __future__ import annotations

import email.utils
import http.client
import platform
import socket
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.dashboard import others_may_read, token_file
from cluster.web import opener, proxy_for

if TYPE_CHECKING:
    from cluster.jobs_api import JobsClient

PROBE_SECONDS = 3.0
CLOCK_SKEW_SECONDS = 30.0
"""Leases in the store last two minutes; nodes report every few seconds, so less cannot be told from here."""
DISK_FULL, DISK_NEARLY_FULL = 95.0, 90.0
"""Per cent. Above the first Ray spills no objects any more (``local_fs_capacity_threshold``)."""
MEMORY_NEARLY_FULL = 95.0
HEAD_METRICS = {"autoscalerMetrics": 44217, "dashboardMetrics": 44227}
"""Ports of a head that Ray tells nobody; AUTOSCALER_METRIC_PORT and DASHBOARD_METRIC_PORT change them."""
OPEN_BY_DESIGN = {
    "metricsExportPort": "Prometheus metrics, read only; on Kubernetes a NetworkPolicy lets only Prometheus in",
    "metricsAgentPort": "takes the node's own metrics; on Kubernetes closed by NetworkPolicy",
    "autoscalerMetrics": "as metricsExportPort, of a head's autoscaler; Ray binds loopback where the head's address is",
    "dashboardMetrics": "the same, of a head's dashboard",
}
"""Ports on which Ray has no authentication, and why that is borne."""
GRPC_PORTS = {"nodeManagerPort": "/ray.rpc.NodeManagerService/GetSystemConfig"}
"""Ports of a node that speak gRPC, with a call that changes nothing where no token is asked for. The object manager is
in the same process, with the same mode, and has no such call."""
HTTP_PORTS = {"dashboardAgentListenPort": "/api/job_agent/jobs/none/logs", "runtimeEnvAgentPort": "/none"}
"""Ports of a node that speak HTTP, with a path that they refuse to show without the token."""
GCS_CALL = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
CLIENT_PORT, CLIENT_CALL = 10001, "/ray.rpc.RayletDriver/Init"
"""Where a head listens for Ray's client, unless it was told otherwise; nodes do not tell."""


@dataclass(frozen=True)
class Finding:
    """One check: ``state`` is ok, warning or missing; ``fix`` says what to do where it is not ok."""

    check: str
    state: str
    found: str
    fix: str = ""


def examine(client: JobsClient) -> Iterator[Finding]:
    """Every check of a cluster, in order.

    Raises:
        InfraError: the cluster stopped answering.
    """
    yield authentication(client.address)
    yield from token_of(client.address)
    metadata = client.get("/api/v0/cluster_metadata")["data"]
    yield from versions(metadata)
    nodes = client.get("/nodes?view=summary")["data"]["summary"]
    yield from alive(nodes)
    living = [node for node in nodes if node["raylet"].get("state") == "ALIVE"]
    yield from silent(living)
    reporting = [node for node in living if "now" in node]
    yield clocks(_head_clock(client.address), reporting)
    for node in reporting:
        yield from disks(node)
        yield from memory(node)
    for node in living:
        yield from ports(node)


def authentication(address: str) -> Finding:
    """Whether the dashboard, through which anybody may run code, asks for a token."""
    try:
        with opener(proxy_for(address)).open(f"{address}/api/jobs/", timeout=PROBE_SECONDS):
            return Finding(
                "authentication",
                "missing",
                "the dashboard runs anybody's code without a token",
                "start every node with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH",
            )
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding("authentication", "ok", f"without a token the dashboard answers {error.code}")
        return Finding("authentication", "warning", f"the dashboard answers {error.code}", "look at its log")
    except (OSError, http.client.HTTPException) as error:
        return Finding("authentication", "warning", f"cannot be told: {error}", "check the address")


def token_of(address: str) -> Iterator[Finding]:
    """Whether the file with the token is its owner's alone; nothing where it is in no file."""
    file = token_file(address)
    if file is not None:
        loose = others_may_read(file)
        found = f"{file} has mode {file.stat().st_mode & 0o777:04o}"
        yield Finding("token", "warning" if loose else "ok", found, f"chmod 600 {file}" if loose else "")


def versions_of(metadata: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Of Ray and Python: (a cluster's version, this machine's)."""
    from importlib.metadata import version

    return {
        "ray": (str(metadata.get("ray_version", metadata.get("rayVersion"))), version("ray")),
        "python": (str(metadata.get("python_version", metadata.get("pythonVersion"))), platform.python_version()),
    }


def versions(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Ray and Python there against those here: drivers join only a cluster with the same two."""
    for name, (theirs, ours) in versions_of(metadata).items():
        same = theirs == ours if name == "ray" else theirs.split(".")[:2] == ours.split(".")[:2]
        fix = "" if same else "submitting works; joining (`--address host:port`) needs the same: use one image"
        yield Finding(f"{name} version", "ok" if same else "warning", f"there {theirs}, here {ours}", fix)


def alive(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Nodes that died; the cluster remembers them for a while."""
    dead = [name_of(node) for node in nodes if node["raylet"].get("state") != "ALIVE"]
    count = len(nodes) - len(dead)
    if dead:
        fix = "`raymill cluster scale workers N`, or look at the pods"
        yield Finding("nodes", "warning", f"{count} alive; died: {', '.join(dead)}", fix)
    else:
        yield Finding("nodes", "ok", f"{count} alive")


def silent(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Living nodes whose agent has reported nothing: without one a node has no logs, metrics or environments."""
    for node in nodes:
        if "now" not in node:
            fix = "it starts, or its agent died: look at dashboard_agent.log on it, or replace the node"
            yield Finding(f"agent of {name_of(node)}", "warning", "has reported nothing yet", fix)


def clocks(head_ahead_s: float | None, nodes: Sequence[Mapping[str, Any]]) -> Finding:
    """How far clocks are apart.

    Args:
        head_ahead_s: the head's clock minus this machine's; None where it did not say.
    """
    moments = {name_of(node): float(node["now"]) for node in nodes}
    spread = max(moments.values()) - min(moments.values()) if moments else 0.0
    worst = max(abs(head_ahead_s or 0.0), spread)
    found = f"nodes within {spread:.0f} s, this machine and the head within {abs(head_ahead_s or 0.0):.0f} s"
    if worst <= CLOCK_SKEW_SECONDS:
        return Finding("clocks", "ok", found)
    behind = min(moments, key=lambda name: moments[name]) if moments else ""
    note = f" ({behind} is behind, or has stopped reporting)" if spread > CLOCK_SKEW_SECONDS else ""
    return Finding("clocks", "warning", found + note, "set the clocks by NTP: leases and credentials depend on them")


def disks(node: Mapping[str, Any]) -> Iterator[Finding]:
    """Disks that are nearly full."""
    full = {place: disk["percent"] for place, disk in node.get("disk", {}).items()}
    place, percent = max(full.items(), key=lambda item: item[1], default=("/", 0.0))
    state = "missing" if percent >= DISK_FULL else "warning" if percent >= DISK_NEARLY_FULL else "ok"
    fix = (
        "" if state == "ok" else f"free space below {place} on that node: above {DISK_FULL:.0f} % Ray spills no objects"
    )
    yield Finding(f"disk of {name_of(node)}", state, f"{place} {percent:.0f} % full", fix)


def memory(node: Mapping[str, Any]) -> Iterator[Finding]:
    """Memory that is nearly all in use; Ray kills workers at 95 %."""
    total, _, percent, _ = node["mem"]
    if total and percent >= MEMORY_NEARLY_FULL:
        yield Finding(
            f"memory of {name_of(node)}", "warning", f"{percent:.0f} % in use", "fewer workers, or a larger node"
        )


def open_by_design(raylet: Mapping[str, Any]) -> set[int]:
    """A node's ports of OPEN_BY_DESIGN.

    Args:
        raylet: what the dashboard, or Ray's list of nodes, says of it.
    """
    told = {kind.lower(): port for kind, port in raylet.items()}
    return {int(told.get(kind.lower()) or HEAD_METRICS.get(kind) or 0) for kind in OPEN_BY_DESIGN} - {0}


def ports(node: Mapping[str, Any]) -> Iterator[Finding]:
    """The ports of Ray's services on a node that can be reached from here, and whether each asks for a token.

    Those of its workers are not among them: no node tells them.
    """
    raylet, name = node["raylet"], name_of(node)
    host = node.get("ip") or raylet.get("nodeManagerAddress") or ""
    probes = [(kind, int(raylet.get(kind) or 0)) for kind in (*GRPC_PORTS, *OPEN_BY_DESIGN, *HTTP_PORTS)]
    if raylet.get("isHeadNode"):
        probes += [("gcs", gcs_port(node)), ("rayClient", CLIENT_PORT), *HEAD_METRICS.items()]
    problems, reached = [], 0
    for kind, port in probes:
        if not port or not _answers(host, port):
            continue
        reached += 1
        if kind in OPEN_BY_DESIGN:
            continue
        if kind in HTTP_PORTS:
            open_to_all = http_is_open(f"http://{host}:{port}{HTTP_PORTS[kind]}")
        else:
            call = {"gcs": GCS_CALL, "rayClient": CLIENT_CALL, **GRPC_PORTS}[kind]
            open_to_all = grpc_is_open(f"{host}:{port}", call)
        if open_to_all:
            problems.append(f"{kind} {port}")
    if problems:
        fix = "start the node with RAY_AUTH_MODE=token; until then close the ports by a firewall or NetworkPolicy"
        yield Finding(f"ports of {name}", "missing", f"no token asked for: {', '.join(problems)}", fix)
    elif reached:
        yield Finding(
            f"ports of {name}", "ok", f"{reached} reached from here; each asks for a token or only has metrics"
        )
    else:
        yield Finding(f"ports of {name}", "ok", "none can be reached from here")


def name_of(node: Mapping[str, Any]) -> str:
    """What a node is called; one without an agent says no more than its raylet does."""
    raylet = node["raylet"]
    return str(raylet.get("nodeName") or node.get("ip") or raylet.get("nodeManagerAddress") or raylet.get("nodeId"))


def gcs_port(node: Mapping[str, Any]) -> int:
    """The port of the cluster's metadata server, from its command line; 0 where the node does not say."""
    words = (node.get("gcs") or {}).get("cmdline") or []
    found = [word.partition("=")[2] for word in words if word.startswith("--gcs_server_port=")]
    return int(found[0]) if found else 0


def _head_clock(address: str) -> float | None:
    """The head's clock minus this machine's, from the date of an answer (whole seconds)."""
    before = time.time()
    try:
        asked = opener(proxy_for(address)).open(f"{address}/api/authentication_mode", timeout=PROBE_SECONDS)
        with asked as answer:
            text = answer.headers.get("Date")
    except (OSError, http.client.HTTPException):
        return None
    if not text:
        return None
    theirs = email.utils.parsedate_to_datetime(text).timestamp() + 0.5  # the date is cut to whole seconds
    return theirs - (before + time.time()) / 2


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def http_is_open(url: str) -> bool:
    """Whether an address answers without a token."""
    try:
        with opener(None).open(url, timeout=PROBE_SECONDS):  # a node's own port: no proxy is between
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)
    except (OSError, http.client.HTTPException):  # nobody there, or it speaks something else
        return False


def grpc_is_open(target: str, method: str) -> bool:
    """Whether a call without a token gets further than the check of tokens."""
    import grpc

    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(method)
        try:
            call(b"", timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            return error.code() not in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNIMPLEMENTED,  # another service's port: Ray looks for the call before the token
            )
    return True
