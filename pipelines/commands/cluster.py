"""`raymill cluster`: a real cluster of several nodes on this machine, and what any cluster is doing."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from cluster import local_cluster
from cluster.checkup import versions_of
from cluster.errors import RaymillError, UserError
from cluster.jobs_api import JobsClient
from cluster.local_cluster import ClusterRecord, find_cluster
from cluster.pending import ClusterView, view_of
from cluster.progress import table
from pipelines.commands.job_arguments import DEFAULT_CLUSTER

MIN_OBJECT_STORE_BYTES = 80 << 20


def up(arguments: Namespace) -> int:
    """Start a local cluster, or say where the one that runs is."""
    if arguments.nodes < 1 or arguments.cpus < 1 or arguments.object_store_bytes < MIN_OBJECT_STORE_BYTES:
        raise UserError(
            "a cluster has a node, a node a CPU, and an object store 80 MiB",
            where="raymill cluster up",
            next_step="for example `raymill cluster up --nodes 3 --cpus 4`",
        )
    record = local_cluster.up(
        arguments.name or DEFAULT_CLUSTER, arguments.nodes - 1, arguments.cpus, arguments.object_store_bytes, _say
    )
    if arguments.json:
        print(json.dumps(_public(record), indent=1))
    else:
        print(f"{len(record.nodes)} nodes at {record.address}, token authentication (token in {record.token_file})")
        print(f"submit to it: raymill submit RECIPE --address {record.dashboard} --follow")
        print("end it: raymill cluster down")
    return 0


def status(arguments: Namespace) -> int:
    """Nodes, resources, jobs, serving and versions of a cluster."""
    record = None if arguments.address else find_cluster(arguments.name)
    address = arguments.address or (record.dashboard if record else "")
    answer = _ask(JobsClient.open(address))
    if record is not None:
        answer |= {"name": record.name, "join": record.address, "dead": _dead(record), "scale": record.scale}
    if arguments.json:
        print(json.dumps(answer, indent=1))
        return 0
    versions = ", ".join(f"{name.capitalize()} {_version(both)}" for name, both in answer["versions"].items())
    print(f"{answer.get('name', 'cluster')} at {address}, {versions}")
    print(table(answer["nodes"]))
    for name in answer.get("dead", []):
        print(f"node {name} has ended; `raymill cluster scale workers N` starts another")
    for waiting in answer["waiting"]:
        print(f"waits for a place: {waiting}")
    jobs = answer["jobs"]
    print("\n" + (table(jobs) if jobs else "no jobs"))
    print("\n" + (table(answer["serving"]) if answer["serving"] else "nothing is served"))
    return 0


def scale(arguments: Namespace) -> int:
    """Bring a group's number of nodes within bounds: start what is missing, end what is too much, idle nodes first."""
    record = find_cluster(arguments.name)
    if arguments.group != local_cluster.WORKERS:
        raise UserError(
            f"no group {arguments.group!r}", where=f"cluster {record.name}", next_step="a local cluster has `workers`"
        )
    least, most = _bounds(arguments.bounds)
    for node in record.workers:
        if not local_cluster.alive(node):
            record = local_cluster.remove_worker(record, node)
    before = len(record.workers)
    record = local_cluster.set_scale(record, (least, most))
    if before < least:
        record = local_cluster.add_workers(record, least - before)
    elif before > most:
        busy = _in_use(view_of(JobsClient.open(record.dashboard)))
        for node in sorted(record.workers, key=lambda each: busy.get(each.name, 0.0))[: before - most]:
            record = local_cluster.remove_worker(record, node)
    print(f"{local_cluster.WORKERS}: {before} -> {len(record.workers)} nodes (bounds {least}:{most})")
    return 0


def down(arguments: Namespace) -> int:
    """End a local cluster. Jobs that run there end with it; what they published stays in their stores."""
    record = find_cluster(arguments.name)
    running = _running(record)
    if running and not arguments.yes:
        if not sys.stdin.isatty():
            raise UserError(
                f"jobs run there: {', '.join(running)}", where=record.name, next_step="give --yes to end them"
            )
        print(f"these jobs end with it: {', '.join(running)}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("not ended", where=record.name, next_step="answer y, or give --yes")
    local_cluster.down(record)
    print(f"cluster {record.name} has ended")
    return 0


def _running(record: ClusterRecord) -> list[str]:
    try:
        return [job.id for job in JobsClient.open(record.dashboard).jobs() if not job.over]
    except RaymillError:  # its head is gone: then nothing of it is worth waiting for
        return []


def _ask(client: JobsClient) -> dict[str, Any]:
    view = view_of(client)
    serving = client.get("/api/serve/applications/").get("applications") or {}
    return {
        "versions": {
            name: {"there": there, "here": here}
            for name, (there, here) in versions_of(client.get("/api/v0/cluster_metadata")["data"]).items()
        },
        "address": client.address,
        "nodes": [
            {
                "node": node.name,
                "head": "yes" if node.head else "",
                "CPU": f"{node.used.get('CPU', 0.0):g}/{node.total.get('CPU', 0.0):g}",
                "GPU": f"{node.used.get('GPU', 0.0):g}/{node.total.get('GPU', 0.0):g}",
                "memory GiB": f"{node.total.get('memory', 0.0) / (1 << 30):.1f}",
            }
            for node in view.nodes
        ],
        "waiting": [
            f"{count} × {', '.join(f'{amount:g} {name}' for name, amount in needs.items())}"
            for needs, count in view.demands
        ],
        "jobs": [
            {"job": job.id, "status": job.status, "recipe": job.metadata.get("raymill_recipe", "")}
            for job in client.jobs()
        ],
        "serving": [{"application": name, "status": each["status"]} for name, each in serving.items()],
    }


def _version(both: dict[str, str]) -> str:
    there, here = both["there"], both["here"]
    return there if there == here else f"{there} (here {here})"


def _dead(record: ClusterRecord) -> list[str]:
    return [node.name for node in record.nodes if not local_cluster.alive(node)]


def _in_use(view: ClusterView) -> dict[str, float]:
    return {node.name: node.used.get("CPU", 0.0) + node.used.get("GPU", 0.0) for node in view.nodes}


def _bounds(text: str) -> tuple[int, int]:
    low, separator, high = text.partition(":")
    if not low.isdigit() or (separator and not high.isdigit()) or (separator and int(low) > int(high)):
        raise UserError("reads N or MIN:MAX", where=text, next_step="for example `raymill cluster scale workers 1:4`")
    return int(low), int(high) if separator else int(low)


def _public(record: ClusterRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "address": record.address,
        "dashboard": record.dashboard,
        "token_file": record.token_file,
        "nodes": [{"name": node.name, "group": node.group, "pid": node.pid} for node in record.nodes],
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
