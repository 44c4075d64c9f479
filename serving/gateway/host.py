"""A Ray actor that listens on the public address and runs a gateway. It takes no CPU slot.

All gateways of a node listen on one port with SO_REUSEPORT (socket(7)): the kernel shares the connections out among
those that live. The first one to listen there checks that nobody else does: another deployment of the same user
would share the port without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass

from serving.control.ports import cannot_listen, require_free
from serving.gateway.app import Gateway
from serving.gateway.observation import GatewayReport, OthersUse
from serving.gateway.table import RouteTable

ADMIN_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Listening:
    """Where a gateway listens: the public port and the admin port (0: not yet), its node and its process."""

    port: int
    admin_port: int
    node: str
    pid: int


class GatewayHost:
    """Hosts one gateway; run as an asyncio Ray actor.

    Args:
        name: the gateway's, for its reports.
        state_url: the store with the deployment's state, for admin calls.
        deployment: the deployment's name.
    """

    def __init__(self, name: str, state_url: str, deployment: str) -> None:
        import ray

        self._gateway = Gateway(name, state_url, deployment)
        self._node = str(ray.get_runtime_context().get_node_id())
        self._port = self._admin_port = 0
        self._opening = asyncio.Lock()

    async def listen(self, host: str, port: int, admin_port: int | None, exclusive: bool) -> Listening:
        """Start to answer; where it answers already, that stays.

        Args:
            port: 0 takes any free one.
            admin_port: on loopback; None for no admin calls.
            exclusive: nobody else may listen there yet, not even with SO_REUSEPORT.

        Raises:
            UserError: the address cannot be listened on.
        """
        async with self._opening:
            if not self._port:
                if exclusive:
                    require_free(host, port)
                    if admin_port is not None and not self._admin_port:
                        require_free(ADMIN_HOST, admin_port, key="admin_port")
                if admin_port is not None and not self._admin_port:
                    self._admin_port = await self._open(ADMIN_HOST, admin_port, admin=True)
                self._port = await self._open(host, port)
                _yield_to_engines()
        return await self.listening()

    async def listening(self) -> Listening:
        """Where it answers now."""
        return Listening(self._port, self._admin_port, self._node, os.getpid())

    async def update(self, table: RouteTable) -> None:
        """Take a newer route table."""
        self._gateway.update(table)

    async def table(self) -> RouteTable | None:
        """The table that it works by."""
        return self._gateway.routes

    async def report(self, others_use: OthersUse | None) -> GatewayReport:
        """What happened since the last report, and how busy it is.

        Args:
            others_use: what the other gateways have let keys use; None where that is not known yet.
        """
        return self._gateway.report(others_use)

    async def close(self, drain_seconds: float) -> None:
        """Stop listening, let requests in flight finish for so long, and close."""
        self._port = self._admin_port = 0
        await self._gateway.drain(drain_seconds)

    async def _open(self, host: str, port: int, *, admin: bool = False) -> int:
        try:
            listener = _socket(host, port)
            return await self._gateway.listen(listener, admin=admin)
        except (OSError, OverflowError) as error:
            raise cannot_listen(host, port, error, key="admin_port" if admin else "port") from None


def _yield_to_engines() -> None:
    """Where cores are short, let engines on them finish their time slice before this thread, the event loop's, runs
    (sched(7), SCHED_BATCH): it keeps its share of the time, wakes less often, and then has more to do at once.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it, and it is no more than a hint
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener
