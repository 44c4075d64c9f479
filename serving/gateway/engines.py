"""The engines as the gateway sees them: who is in rotation, who is asked, and who is looked at again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from serving.gateway.metrics import GatewayMetrics
from serving.gateway.pool import EnginePool
from serving.gateway.table import RouteTable
from serving.gateway.upstream import EngineLost, Upstream, UpstreamAnswer

PROBE_INTERVAL_S = 0.5
PROBE_TIMEOUT_S = 2.0


class Engines:
    """Connections to engines, and their rotation.

    Args:
        changed: called when an engine came into rotation.
    """

    def __init__(self, metrics: GatewayMetrics, changed: Callable[[], None]) -> None:
        self.pool = EnginePool()
        self.upstream = Upstream()
        self._metrics, self._changed = metrics, changed
        self._probes: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after engines that are out of rotation; needs a running event loop."""
        self._prober = self._prober or asyncio.create_task(self._probe_ejected())

    def update(self, table: RouteTable) -> None:
        """Take the addresses of a newer table."""
        for address in self.pool.update({name: route.addresses for name, route in table.variants.items()}):
            self.upstream.forget(address)
        self._changed()

    async def post(
        self, address: str, path: str, headers: Mapping[str, str], body: bytes, *, try_seconds: float, streamed: bool
    ) -> UpstreamAnswer:
        """Send a request to one engine. A stream has to begin within ``try_seconds``; an answer in one piece begins
        with its end, and is waited for as long as its engine answers health checks.

        Raises:
            EngineLost: there will be no answer, or (``late``) none in time.
        """
        still_well = None if streamed else functools.partial(self.healthy, address)
        return await self.upstream.post(
            address, path, headers, body, first_byte_timeout=try_seconds, still_well=still_well
        )

    def lost(self, address: str) -> None:
        """An engine failed to answer: out of rotation at once, back when it answers a probe."""
        if self.pool.eject(address):
            self._metrics.ejections.add()
        self.upstream.forget(address)

    def suspect(self, address: str) -> None:
        """An engine is slow or reports trouble: it leaves the rotation if it does not answer a probe."""
        if address not in self.pool.ejected:
            self._spawn(self._examine(address))

    async def healthy(self, address: str) -> bool:
        """Whether an engine answers its health check."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                with await self.upstream.get(address, "/health", first_byte_timeout=PROBE_TIMEOUT_S) as answer:
                    await answer.read()
                    return answer.status == 200
        except (EngineLost, TimeoutError):
            return False

    async def close(self) -> None:
        """Close every connection."""
        tasks = [*self._probes, *([self._prober] if self._prober else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._prober = None
        self.upstream.close()

    def _spawn(self, probe: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(probe)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _examine(self, address: str) -> None:
        if not await self.healthy(address):
            self.lost(address)

    async def _probe_ejected(self) -> None:
        probing: set[str] = set()

        async def probe(address: str) -> None:
            try:
                if await self.healthy(address):
                    self.pool.restore(address)
                    self._changed()
            finally:
                probing.discard(address)

        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            for address in self.pool.ejected - probing:
                probing.add(address)
                self._spawn(probe(address))
