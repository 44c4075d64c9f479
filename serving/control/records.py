"""What the store says of a deployment that runs: where it answers, and how it is. Written by one controller at a time.

A store may be shared by clusters and machines, so records say whose they are: nobody removes another's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

from cluster.errors import UserError
from cluster.store import Store
from serving.control import status
from serving.control.endpoint import Endpoint, owned_by, read_endpoint, remove_endpoint, write_endpoint
from serving.control.status import DeploymentStatus

REPEAT_S = 5.0
"""How old a written status may be where only counts changed, and how long an endpoint's record may be missing."""

TAKE_OVER_S = 3 * REPEAT_S
"""Who takes over decides nothing for so long; by then the one before has read that it is superseded."""

FRESH_S = 20.0
"""A status that is younger has a controller that lives; clocks of machines may differ by less than this."""


class Records:
    """The two records as one controller writes them; use it within one event loop.

    Writes take turns with :meth:`forget`, so that none that is under way lands after it.

    Args:
        takes_over: another cluster may serve the deployment still. It goes on answering, and decides no more as soon
            as it has read who came after it.

    Attributes:
        superseded: a later one has taken over from this one.
    """

    def __init__(self, store: Store, name: str, *, takes_over: bool = False) -> None:
        self._store, self._name = store, name
        self._turn = asyncio.Lock()
        self._over = False
        self._endpoint: Endpoint | None = None
        self._looked = float("-inf")
        self._written: tuple[DeploymentStatus, float] | None = None
        self.superseded = False
        self._decides_from = float("inf") if takes_over else float("-inf")

    @property
    def decides(self) -> bool:
        """Whether no other controller decides about this deployment now."""
        return not self.superseded and time.monotonic() >= self._decides_from

    async def publish(self, endpoint: Endpoint) -> None:
        """Say where it answers: where that is new, and where somebody took the record away."""
        async with self._turn:
            now, known = time.monotonic(), self._endpoint
            same = known is not None and known.url == endpoint.url
            if self._over or (same and now - self._looked < REPEAT_S):
                return
            found = await asyncio.to_thread(self._found)
            self.superseded = found is not None and found.deployed_at > endpoint.deployed_at
            if not self.superseded and (not same or found is None):
                await asyncio.to_thread(write_endpoint, self._store, endpoint)
            if known is None and self._decides_from == float("inf"):
                another = found is not None and found.deployed_at < endpoint.deployed_at
                self._decides_from = now + TAKE_OVER_S if another else now
            self._endpoint, self._looked = endpoint, now

    def _found(self) -> Endpoint | None:
        try:
            return read_endpoint(self._store, self._name)
        except UserError:  # damaged: it is written anew
            return None

    async def write(self, now: DeploymentStatus) -> None:
        """Say how it is, where that changed, or was said too long ago."""
        async with self._turn:
            if self._over or self.superseded:
                return
            if self._written is not None:
                before, at = self._written
                if _structure(now) == _structure(before) and time.monotonic() - at < REPEAT_S:
                    return
            await asyncio.to_thread(status.write, self._store, self._name, now)
            self._written = (now, time.monotonic())

    async def forget(self, pid: int, host: str, ray_address: str) -> None:
        """Nobody serves it any more; nothing is written after this. See :func:`forget`."""
        async with self._turn:
            self._over = True
            await asyncio.to_thread(forget, self._store, self._name, pid, host, ray_address)


def forget(store: Store, name: str, pid: int, host: str, ray_address: str) -> None:
    """Remove both records, unless they are another's, who serves it now.

    Args:
        pid, host, ray_address: of who goes, as in :class:`~serving.control.endpoint.Endpoint`.
    """
    try:
        found = read_endpoint(store, name)
    except UserError:  # damaged: it helps nobody
        found = None
    if found is None or owned_by(found, pid, host, ray_address):
        remove_endpoint(store, name)
        status.remove(store, name)


def served_elsewhere(store: Store, name: str, now: float) -> str:
    """Where a deployment is served by somebody who lives; empty where nobody does.

    Args:
        now: seconds since the epoch.
    """
    import psutil

    endpoint = read_endpoint(store, name)
    if endpoint is None:
        return ""
    last = status.read(store, name)
    if last is None or now - last.written_at > FRESH_S:  # also where a process has the number of one that is gone
        return ""
    if endpoint.pid and endpoint.host == socket.gethostname():
        lives = endpoint.pid != os.getpid() and psutil.pid_exists(endpoint.pid)
        return f"at {endpoint.url} by process {endpoint.pid}" if lives else ""
    where = f"process {endpoint.pid} on {endpoint.host}" if endpoint.pid else f"the cluster at {endpoint.ray_address}"
    return f"at {endpoint.url} by {where}"


def _structure(status: DeploymentStatus) -> DeploymentStatus:
    """A status without what changes all the time."""
    engines = tuple(
        engine.model_copy(
            update={"replicas": tuple(each.model_copy(update={"ongoing": 0}) for each in engine.replicas)}
        )
        for engine in status.engines
    )
    gateways = tuple(each.model_copy(update={"requests": 0, "dropped": 0}) for each in status.gateways)
    return status.model_copy(update={"engines": engines, "gateways": gateways, "rollout": {}, "written_at": 0.0})
