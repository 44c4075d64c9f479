"""Copies of requests to a variant that nobody sees: bounded, measured, and never in anybody's way."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from serving.config import LimitsConfig
from serving.gateway import wire
from serving.gateway.connection import EngineLost
from serving.gateway.engines import Engines
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.prompts import with_prompt
from serving.gateway.streams import EventStream
from serving.gateway.table import RouteTable


class Shadow:
    """The copies in flight on one gateway."""

    def __init__(self, engines: Engines, metrics: GatewayMetrics) -> None:
        self._engines, self._metrics = engines, metrics
        self._copies: set[asyncio.Task[None]] = set()

    def offer(self, table: RouteTable, path: str, body: dict[str, Any], answering: str) -> None:
        """Perhaps send a copy; returns at once."""
        shadow = table.shadow
        if shadow is None or shadow.variant == answering or shadow.variant not in table.variants:
            return
        if random.random() >= shadow.share:
            return
        if len(self._copies) >= shadow.max_ongoing:
            self._metrics.shadow_requests.add(shadow.variant, "skipped")
            return
        copy = asyncio.create_task(self._send(table, shadow.variant, path, body))
        self._copies.add(copy)
        copy.add_done_callback(self._copies.discard)

    async def _send(self, table: RouteTable, variant: str, path: str, body: dict[str, Any]) -> None:
        engines = self._engines
        address = engines.pool.pick(variant)
        if address is None:
            self._metrics.shadow_requests.add(variant, "no_engine")
            return
        began, outcome = time.perf_counter(), "cancelled"
        engines.pool.begin(address)
        try:
            async with asyncio.timeout(table.limits.answer_seconds):
                outcome = await self._measured(table, variant, address, path, body, began)
        except EngineLost as lost:
            # The engine may be the answering variant's too: a copy that is merely late does not take it away.
            outcome = "timeout" if lost.late else "lost"
            (engines.suspect if lost.late else engines.lost)(address)
        except TimeoutError:
            outcome = "timeout"
        except wire.ApiError:
            outcome = "invalid"
        finally:
            engines.pool.end(address)
            self._metrics.shadow_requests.add(variant, outcome)

    async def _measured(
        self, table: RouteTable, variant: str, address: str, path: str, body: dict[str, Any], began: float
    ) -> str:
        route = table.variants[variant]
        payload = wire.engine_body(with_prompt(body, path, route.prompt, table.limits), route.engine_model)
        headers = engine_headers(table, "shadow")
        limits: LimitsConfig = table.limits
        answer = await self._engines.post(
            address, path, headers, payload, try_seconds=limits.try_seconds, streamed=body.get("stream") is True
        )
        status = answer.status
        with answer:
            if answer.is_stream:
                stream = EventStream(answer, hide_usage=False)
                while await stream.next():
                    pass
                if stream.error is not None:
                    status = stream.error.status
                if stream.first_at:
                    self._metrics.shadow_first_token.observe(stream.first_at - began, variant)
            else:
                await answer.read()
        if status < 400:
            self._metrics.shadow_latency.observe(time.perf_counter() - began, variant)
        return str(status)

    async def close(self) -> None:
        """Give up the copies in flight."""
        copies = list(self._copies)
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


def engine_headers(table: RouteTable, request_id: str) -> dict[str, str]:
    """What an engine is told besides the body; nothing of the caller's."""
    return {"Authorization": f"Bearer {table.key}", "Content-Type": wire.JSON, "X-Request-Id": request_id}
