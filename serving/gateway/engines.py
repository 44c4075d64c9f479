"""The engines as the gateway sees them: who is in rotation, who is asked, and who is looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from serving.engines.load import Load
from serving.gateway.connection import EngineLost
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.pool import EnginePool
from serving.gateway.table import RouteTable
from serving.gateway.upstream import Upstream, UpstreamAnswer

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
        with its end, and is waited for as long as its engine is well and moves its work.

        Raises:
            EngineLost: there will be no answer, or (``late``) none in time.
        """
        if streamed:
            return await self.upstream.post(address, path, headers, body, first_byte_timeout=try_seconds)
        # Twice in the time of a try: the first look tells what the engine has done so far, the second whether it moved.
        return await self.upstream.post(
            address,
            path,
            headers,
            body,
            first_byte_timeout=try_seconds / 2,
            still_well=_Watch(self, address).still_well,
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
        return await self._page(address, "/health") is not None

    async def load(self, address: str) -> Load:
        """What an engine says of its work."""
        return Load.read((await self._page(address, "/metrics") or b"").decode("utf-8", "replace"))

    async def close(self) -> None:
        """Close every connection."""
        tasks = [*self._probes, *([self._prober] if self._prober else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._prober = None
        self.upstream.close()

    async def _page(self, address: str, path: str) -> bytes | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                with await self.upstream.get(address, path, first_byte_timeout=PROBE_TIMEOUT_S) as answer:
                    page = await answer.read()
                    return page if answer.status == 200 else None
        except (EngineLost, TimeoutError):
            return None

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


class _Watch:
    """Looks at an engine while one answer of it is waited for."""

    def __init__(self, engines: Engines, address: str) -> None:
        self._engines, self._address = engines, address
        self._tokens: float | None = None

    async def still_well(self) -> bool:
        """Whether it answers its health check and has read or written a token since the last look."""
        if not await self._engines.healthy(self._address):
            return False
        before, self._tokens = self._tokens, (await self._engines.load(self._address)).tokens
        return self._tokens is None or self._tokens != before
