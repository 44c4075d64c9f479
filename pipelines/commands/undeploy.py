"""`raymill undeploy`: let an endpoint go, with its streams in flight finished first."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

from cluster.errors import InfraError, UserError
from cluster.progress import duration
from pipelines.commands.deployment import Target, target_of
from serving.control import operations, status
from serving.control.endpoint import remove_endpoint
from serving.control.names import who

POLL_SECONDS = 0.2
SHUTDOWN_SECONDS = 90.0
"""For engines and applications to end, after the answers in flight had their time."""


def undeploy(arguments: Namespace) -> int:
    """Write that the deployment is to go and wait until it is gone; its keys and its journal stay."""
    target = target_of(arguments)
    reason = arguments.reason or "undeployed"
    state = operations.stop(target.journal, by=who(), reason=reason)
    try:
        endpoint = target.endpoint
    except UserError:  # a record that nobody can read names nothing to end
        if not arguments.force:
            raise
        endpoint = None
    if endpoint is None:
        _forget(target)
        print(f"{target.name} is stopped (version {state.version}); nobody serves it")
        return 0
    if arguments.force:
        from serving.control import takedown

        outcome = "what was left of it is removed"
        try:
            takedown.remove(target.store, target.name, endpoint)
        except InfraError as error:  # a cluster that is gone took everything with it
            print(f"{error.where}: {error.what}", file=sys.stderr)
            outcome = "its cluster cannot be joined; if it lives, what is left there ends by itself"
        _forget(target)
        print(f"{target.name} is stopped (version {state.version}); {outcome}")
        return 0
    print(f"waiting for the answers in flight at {endpoint.url}", file=sys.stderr, flush=True)
    seconds = _wait_gone(target, state.limits.drain_seconds + SHUTDOWN_SECONDS)
    print(f"{target.name} is gone after {duration(seconds)} (version {state.version})")
    return 0


def _forget(target: Target) -> None:
    """Remove the records of a deployment that nobody serves; after a kill they stay behind."""
    status.remove(target.store, target.name)
    remove_endpoint(target.store, target.name)


def _wait_gone(target: Target, timeout_seconds: float) -> float:
    began = time.monotonic()
    while target.endpoint is not None:
        waited = time.monotonic() - began
        if waited > timeout_seconds:
            raise InfraError(
                f"it is to stop, but answers as being served after {duration(waited)}",
                where=f"deployment {target.name}",
                next_step=f"where its controller is dead: `raymill undeploy --deployment {target.name} --force`",
            )
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began
