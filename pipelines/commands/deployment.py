"""What the commands on a deployment share: which one is meant, and when a change is everywhere.

They write to the store and need no connection to Ray.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

from cluster.store import Store, open_store
from serving.control import status
from serving.control.endpoint import Endpoint, is_abandoned, read_endpoint
from serving.control.journal import Journal, deployment_name
from serving.control.state import ServingState

WAIT_SECONDS = 10.0
"""A change is everywhere within 2 s; a controller or gateway that was just killed is back within this."""


@dataclass(frozen=True)
class Target:
    """The deployment that a command works on."""

    store: Store
    name: str
    journal: Journal

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it answers; None where nobody serves it."""
        found = read_endpoint(self.store, self.name)
        return None if found is None or is_abandoned(found) else found

    def change(self, operation: Callable[[], ServingState]) -> tuple[ServingState, str]:
        """Run an operation on the journal, wait until it is in force, and say how that went.

        Raises:
            UserError: the operation refuses.
            InfraError: it is written, but the gateways do not follow.
        """
        before = self.journal.current()
        state = operation()
        return state, self.applied(state, changed=state.version > before.version)

    def applied(self, state: ServingState, *, changed: bool = True) -> str:
        """Wait until every gateway works by a version; one line about it."""
        if self.endpoint is None:
            return f"version {state.version}{' written' if changed else ' as before'}; takes effect when it is served"
        seconds = status.wait_applied(self.store, self.name, state.version, WAIT_SECONDS)
        now = status.read(self.store, self.name)
        gateways = f"{now.gateways_at(state.version)} of {len(now.gateways)} gateways" if now else "every gateway"
        if not changed:
            return f"nothing to change: version {state.version} says so already, on {gateways}"
        return f"version {state.version}, on {gateways} after {seconds:.1f} s"


def target_of(arguments: Namespace) -> Target:
    """The deployment that ``--store`` and ``--deployment`` mean.

    Raises:
        UserError: there is none, or there are several and none is named.
    """
    store = open_store(arguments.store)
    name = deployment_name(store, arguments.deployment)
    return Target(store, name, Journal(store, name))
