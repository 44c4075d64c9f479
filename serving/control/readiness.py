"""When a deployment that comes up is ready, and why it never will be."""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import InfraError
from serving.control import ray_serve
from serving.control.state import ServingState

if TYPE_CHECKING:
    from cluster.progress import Tracker
    from serving.control.controller import Snapshot

POLL_INTERVAL_S, SCHEDULING_NOTE_S = 0.2, 15.0


def wait_until_ready(
    state: ServingState, expected: Set[str], look: Callable[[], Snapshot], tracker: Tracker, logs: Path
) -> str:
    """Return the URL, with ``/v1``, when gateways listen and engines have answered for the expected variants.

    Args:
        state: what is wanted; every gateway must work by it.
        expected: the variants that must come up; others may fail.
        look: asks the controller.
        logs: where engines write.

    Raises:
        UserError: vLLM refuses a model, or the address cannot be listened on.
        InfraError: engines died again and again, or were not ready in time.
    """
    began, noted = time.monotonic(), False
    limit = max(each.config.startup_timeout_seconds for each in state.engines.values()) + ray_serve.CALL_TIMEOUT_S
    while True:
        snapshot = look()
        if snapshot.problem is not None:
            raise snapshot.problem
        raise_failure(snapshot, state, expected)
        full = _full_engines(snapshot, state, expected)
        tracker.update(len(full))
        status = snapshot.status
        if status is not None and snapshot.url and status.applied(state.version):
            ready = {each.name for each in status.variants if each.state in ("ready", "asleep")}
            if expected <= ready and {state.variants[name].engine for name in expected} <= full:
                return f"{snapshot.url}/v1"
        waited = time.monotonic() - began
        if waited > limit:
            raise InfraError(
                f"the engines were not ready within {limit:.0f} s",
                where="serving",
                next_step=f"`raymill doctor` says what the cluster has; see the logs in {logs}",
                attempts=tuple(f"{name}: {word}" for name, word in snapshot.applications.items()),
            )
        if waited > SCHEDULING_NOTE_S and not noted and not any(logs.glob("engine-*.log")):
            noted = True
            tracker.note("the engines wait for free CPUs: " + "; ".join(ray_serve.free_resources()))
        time.sleep(POLL_INTERVAL_S)


def raise_failure(snapshot: Snapshot, state: ServingState, expected: Set[str]) -> None:
    """Raise the reason why one of the expected variants does not come up, if there is any."""
    for name in sorted(expected):
        variant = state.variants[name]
        error = snapshot.failures.get(variant.engine) or snapshot.failures.get(variant.engine_model)
        if error is None:
            continue
        names = ", ".join(each.name for each in state.variants.values() if each.engine == variant.engine)
        source = variant.adapter or state.engines[variant.engine].source
        tried = {"attempts": error.attempts} if isinstance(error, InfraError) else {}
        raise type(error)(error.what, where=f"serving: variant {names} ({source})", next_step=error.next_step, **tried)


def _full_engines(snapshot: Snapshot, state: ServingState, expected: Set[str]) -> set[str]:
    """Engines of the expected variants with all their replicas.

    Serve replaces a replica that dies only once it has counted it as up, so its word counts too.
    """
    if snapshot.status is None:
        return set()
    wanted = {state.variants[name].engine for name in expected}
    return {
        each.name
        for each in snapshot.status.engines
        if each.name in wanted
        and len(each.replicas) >= each.target
        and snapshot.applications.get(each.name) == "RUNNING"
    }
