"""`raymill status`: what a deployment is at the moment, and who changed it when and why."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from cluster.progress import duration, table
from pipelines.commands.deployment import Target, target_of
from serving.control import status
from serving.control.status import DeploymentStatus

NODE_LETTERS = 12
"""Of a node's id in Ray: enough to tell nodes apart."""


def show(arguments: Namespace) -> int:
    """Print variants, engines and gateways as the controller last wrote them down; or the changes, newest first."""
    target = target_of(arguments)
    if arguments.history is not None:
        return _show_changes(target, arguments.history, as_json=arguments.json)
    state, now = target.journal.current(), status.read(target.store, target.name)
    endpoint = target.endpoint
    if arguments.json:
        report = {
            "deployment": target.name,
            "endpoint": endpoint.model_dump() if endpoint else None,
            "wanted": {"version": state.version, "stopped": state.stopped, "weights": state.weights},
            "status": now.model_dump(mode="json") if now and endpoint else None,
        }
        print(json.dumps(report, indent=1))
        return 0
    if endpoint is None:
        print(f"{target.name}: nobody serves it; version {state.version} is wanted when somebody does")
        return 0
    print(
        f"{target.name} at {endpoint.url} (admin {endpoint.admin_url}), {duration(time.time() - endpoint.started_at)}"
    )
    print(f"version {state.version} by {state.changed_by}: {state.reason}")
    if now is None:
        print("the controller has written no status yet")
        return 0
    _print_status(now, state.version)
    return 0


def _print_status(now: DeploymentStatus, wanted: int) -> None:
    behind = [each for each in now.gateways if each.version < wanted]
    followers = f"{len(now.gateways) - len(behind)} of {len(now.gateways)} gateways work by it"
    print(f"{followers}; written {duration(max(0.0, time.time() - now.written_at))} ago\n")
    rows = [
        {"variant": each.name, "weight": f"{each.weight:g}", "users %": f"{100 * each.share:.2f}", "state": each.state}
        for each in now.variants
    ]
    print(table(rows))
    print()
    print(table([row for engine in now.engines for row in _engine_rows(engine)]))
    print()
    print(
        table(
            [
                {
                    "gateway": each.name,
                    "node": each.node[:NODE_LETTERS],
                    "pid": str(each.pid),
                    "port": str(each.port),
                    "version": str(each.version),
                    "requests": str(each.requests),
                }
                for each in now.gateways
            ]
        )
    )
    for problem in (
        *(f"variant {each.name}: {each.reason}" for each in now.variants if each.reason),
        *(f"engine {each.name}: {each.refusal}" for each in now.engines if each.refusal),
        *(
            f"gateway {each.name}: {each.dropped} observations of the rollout are lost since it started"
            for each in now.gateways
            if each.dropped
        ),
        *now.problems,
    ):
        print(f"\nproblem: {problem}")


def _engine_rows(engine: status.EngineStatus) -> list[dict[str, Any]]:
    """One row a server, and one where there is none."""
    head = {"engine": engine.name, "wanted": f"{engine.target} ({engine.wanted})"}
    rows = [
        {
            "server": each.address,
            "pid": str(each.pid),
            "node": each.node[:NODE_LETTERS],
            "in flight": each.ongoing,
            "log": each.log,
        }
        for each in engine.replicas
    ]
    return [head | row for row in rows or [{"server": "none", "pid": "", "node": "", "in flight": "", "log": ""}]]


def _show_changes(target: Target, count: int, *, as_json: bool) -> int:
    newest = target.journal.current().version
    states = [target.journal.read(version) for version in range(newest, max(0, newest - count), -1)]
    rows = [
        {
            "version": each.version,
            "at": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.changed_at)),
            "by": each.changed_by,
            "why": each.reason,
            "weights": " ".join(f"{name}={weight:g}" for name, weight in each.weights.items()),
        }
        for each in states
    ]
    if as_json:
        changes = [row | {"at": each.changed_at} for row, each in zip(rows, states, strict=True)]
        print(json.dumps({"deployment": target.name, "changes": changes}, indent=1))
    else:
        print(table(rows))
    return 0
