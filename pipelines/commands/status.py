"""`raymill status`: what a deployment is at the moment, and who changed it when and why."""

from __future__ import annotations

import json
import textwrap
import time
from argparse import Namespace
from typing import Any

from cluster.progress import duration, table
from pipelines.commands.deployment import Target, target_of
from serving.control import status
from serving.control.endpoint import read_endpoint
from serving.control.records import FRESH_S
from serving.control.state import ServingState
from serving.control.status import DeploymentStatus

NODE_LETTERS = 12
"""Of a node's id in Ray: enough to tell nodes apart."""

WHY_WIDTH, WHY_LINES = 60, 2
"""Of a reason in a table; ``--json`` has it whole."""


def show(arguments: Namespace) -> int:
    """Print variants, engines and gateways as the controller last wrote them down; or the changes, newest first."""
    target = target_of(arguments)
    if arguments.history is not None:
        return _show_changes(target, arguments.history, as_json=arguments.json)
    state, now = target.journal.current(), status.read(target.store, target.name)
    endpoint = target.endpoint
    answers = now is not None and time.time() - now.written_at <= FRESH_S
    if arguments.json:
        report = {
            "deployment": target.name,
            "endpoint": endpoint.model_dump() if endpoint else None,
            "answers": endpoint is not None and answers,
            "wanted": {"version": state.version, "stopped": state.stopped, "weights": state.weights},
            "status": now.model_dump(mode="json") if now and endpoint else None,
        }
        print(json.dumps(report, indent=1))
        return 0
    if endpoint is None:
        print(f"{target.name}: {_why_not_served(target, state, now if answers else None)}")
        return 0
    print(
        f"{target.name} at {endpoint.url} (admin {endpoint.admin_url}), {duration(time.time() - endpoint.started_at)}"
    )
    if now is not None and not answers:
        print(
            f"IT DOES NOT ANSWER ANY MORE: its controller wrote nothing for {_ago(now.written_at)}, and what follows "
            "is what it wrote last.\nRay starts a controller that died again; where Ray is gone, "
            f"`raymill undeploy --deployment {target.name} --force` and serve it again"
        )
    print(f"version {state.version} by {state.changed_by}: {_short(state.reason, WHY_WIDTH * WHY_LINES)}")
    if now is None:
        print("the controller has written no status yet")
        return 0
    _print_status(now, state.version, answers=answers)
    return 0


def _why_not_served(target: Target, state: ServingState, now: DeploymentStatus | None) -> str:
    """Why there is no endpoint, as far as the store can tell."""
    left = read_endpoint(target.store, target.name)
    wanted = f"version {state.version} is wanted when somebody does"
    if left is not None:
        return f"process {left.pid}, which served it at {left.url}, is gone; nobody serves it; {wanted}"
    if state.stopped:
        reason = _short(state.reason, WHY_WIDTH)
        return f"nobody serves it; {wanted} ({state.changed_by} stopped it {_ago(state.changed_at)} ago: {reason})"
    if now is not None:
        return f"starting: its controller works by version {now.version}, and no gateway listens yet"
    return (
        f"not serving yet, or not served; version {state.version} is wanted, "
        f"written {_ago(state.changed_at)} ago by {state.changed_by}: {_short(state.reason, WHY_WIDTH)}"
    )


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" …")


def _ago(at: float) -> str:
    return duration(max(0.0, time.time() - at))


def _print_status(now: DeploymentStatus, wanted: int, *, answers: bool) -> None:
    behind = [each for each in now.gateways if each.version < wanted]
    followers = f"{len(now.gateways) - len(behind)} of {len(now.gateways)} gateways work by it"
    print(f"{followers if now.gateways else 'no gateway listens'}; written {_ago(now.written_at)} ago\n")
    rows = [
        {
            "variant": each.name,
            "weight": f"{each.weight:g}",
            "users %": f"{100 * each.share:.2f}",
            "state": each.state if answers else "unknown",
        }
        for each in now.variants
    ]
    print(table(rows))
    print()
    print(table([row for engine in now.engines for row in _engine_rows(engine, answers=answers)]))
    if now.gateways:
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
    if problems := _problems(now):
        print("\n" + "\n".join(f"problem: {problem}" for problem in problems))


def _problems(now: DeploymentStatus) -> list[str]:
    """What does not work, each reason once with everything that it holds for."""
    reasons: dict[str, list[str]] = {}
    for variant in now.variants:
        if variant.reason:
            reasons.setdefault(variant.reason, []).append(f"variant {variant.name}")
    for engine in now.engines:
        if engine.refusal:
            reasons.setdefault(engine.refusal, []).append(f"engine {engine.name}")
    lost = [
        f"gateway {each.name}: {each.dropped} observations of the rollout are lost since it started"
        for each in now.gateways
        if each.dropped
    ]
    return [*(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()), *lost, *now.problems]


def _engine_rows(engine: status.EngineStatus, *, answers: bool) -> list[dict[str, Any]]:
    """One row a server, and one where there is none."""
    rows = [
        {
            "server": each.address,
            "pid": str(each.pid),
            "node": each.node[:NODE_LETTERS],
            "in flight": each.ongoing,
            "log": each.log,
        }
        for each in engine.replicas
    ] or [{"server": "none", "pid": "", "node": "", "in flight": "", "log": ""}]
    head = {"engine": engine.name, "servers": engine.standing if answers else "unknown", "wanted": engine.wanted}
    return [(head if index == 0 else {"engine": engine.name}) | row for index, row in enumerate(rows)]


def _show_changes(target: Target, count: int, *, as_json: bool) -> int:
    newest = target.journal.current().version
    states = [target.journal.read(version) for version in range(newest, max(0, newest - count), -1)]
    rows = [
        {
            "version": each.version,
            "at": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.changed_at)),
            "by": each.changed_by,
            "weights": " ".join(f"{name}={weight:g}" for name, weight in each.weights.items()),
            "why": each.reason,
        }
        for each in states
    ]
    if as_json:
        changes = [row | {"at": each.changed_at} for row, each in zip(rows, states, strict=True)]
        print(json.dumps({"deployment": target.name, "changes": changes}, indent=1))
    else:
        print(table([line for row in rows for line in _wrapped(row)]))
    return 0


def _wrapped(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A change with its reason over a few lines at most."""
    first, *rest = textwrap.wrap(row["why"], WHY_WIDTH, max_lines=WHY_LINES, placeholder=" …") or [""]
    return [row | {"version": str(row["version"]), "why": first}, *({"why": line} for line in rest)]
