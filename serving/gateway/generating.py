"""The calls that engines answer: admission, assignment, the wait for a place, the answer, and what is written down."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from serving.gateway import admission, wire
from serving.gateway.answering import ClientGone
from serving.gateway.exchange import CLIENT_LEFT, Exchange, error_response
from serving.gateway.prompts import with_sampling
from serving.gateway.report import STARTING
from serving.gateway.table import RouteTable

if TYPE_CHECKING:
    from serving.gateway.app import Gateway

OVERRIDE = "X-Raymill-Override"


class Generating:
    """The life of completions, chats and embeddings on one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tasks: set[asyncio.Task[Any]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        gateway, table = self._gateway, self._gateway.routes
        exchange = Exchange(request, request.path, gateway.budget)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if table is None:
                raise wire.Unavailable(STARTING)
            response = await self._admitted(exchange, table)
            exchange.status = response.status
            return response
        except wire.ApiError as error:
            exchange.status = error.status
            if not exchange.asked:
                gateway.metrics.refused.add(error.code or str(error.status))
            return error_response(error, exchange.headers())
        except ClientGone:
            return web.Response(status=CLIENT_LEFT)  # nobody reads it
        except asyncio.CancelledError:
            if not gateway.answering.stopping:
                raise
            stopping = wire.Unavailable("the gateway is stopping; try again")
            exchange.status = stopping.status
            return error_response(stopping, exchange.headers())
        except Exception as error:
            if not isinstance(error, ConnectionError):  # that is the caller's leaving
                exchange.status = 500  # the gateway's own fault, which the server answers and logs
            raise
        finally:
            self._tasks.discard(task)
            self._settle(exchange, table)

    async def finished(self, seconds: float) -> None:
        """Wait until every request is answered, also those that still come on open connections; after ``seconds``
        those that are not are broken off, and say so.
        """
        until = time.monotonic() + seconds
        while self._tasks and (left_s := until - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        self._gateway.answering.stopping = True
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=2.0)

    async def _admitted(self, exchange: Exchange, table: RouteTable) -> web.StreamResponse:
        gateway, request, limits = self._gateway, exchange.request, table.limits
        exchange.key, given = gateway.caller(request, needed=table.require_keys)
        override = request.headers.get(OVERRIDE)
        if override is not None:
            _check_override(exchange, table, override, given)
        admission.check_key_model(exchange.key, table.model)
        raw = await exchange.body.read(request, limits)
        exchange.arrived()
        body = wire.parse_body(raw)
        wire.check_model(body, table.model)
        exchange.user = wire.user_key(request.headers, body)
        exchange.streamed = body.get("stream") is True
        admission.check_asked(body, limits)
        if override is not None:
            exchange.assign(override, "override", table)
        else:
            assignment = table.allocation.assign(table.experiment, exchange.user)
            exchange.assign(assignment.variant, "sticky" if assignment.sticky else "random", table)
        route = table.variants.get(exchange.variant)
        filled = with_sampling(body, exchange.path, route.prompt if route is not None else None, limits)
        demand = admission.demand_of(filled, exchange.path, len(raw))
        exchange.prompt_tokens = demand.prompt_tokens
        if exchange.key is not None:
            exchange.admitted = await admission.begin(gateway.limiter, exchange.key, demand.tokens, time.monotonic)
        gateway.metrics.assignments.add(exchange.variant, exchange.how)
        # The caller's own body goes on: each variant that is asked fills what it leaves out with its own defaults.
        body = self._asking_for_usage(exchange, table, body)
        table = await self._place(exchange, table)
        exchange.asked = True
        gateway.reporting.requests[exchange.variant] += 1
        if table.shadow is not None and override is None:
            gateway.shadow.offer(table, exchange.path, body, exchange.variant)
        return await gateway.answering.answer(exchange, table, body, gateway.reporting.shares)

    def _asking_for_usage(self, exchange: Exchange, table: RouteTable, body: dict[str, Any]) -> dict[str, Any]:
        """Have the engine count a stream's tokens where they matter; the caller does not see it unless it asked too."""
        options = body.get("stream_options")
        asks = isinstance(options, dict) and options.get("include_usage")
        exchange.show_usage = bool(asks) or body.get("stream") is not True
        matters = table.rollout is not None or (exchange.admitted is not None and exchange.admitted.counted)
        if exchange.show_usage or not matters or exchange.path == wire.EMBEDDINGS:
            return body
        if options is not None and not isinstance(options, dict):
            return body  # the engine says what is wrong with it
        return {**body, "stream_options": {**(options or {}), "include_usage": True, "continuous_usage_stats": False}}

    async def _place(self, exchange: Exchange, table: RouteTable) -> RouteTable:
        """Wait for an engine to wake, and for a place; returns the table by which to go on."""
        gateway, limits, variant = self._gateway, table.limits, exchange.variant
        until = time.monotonic() + limits.queue_seconds
        if variant in table.variants and table.variants[variant].asleep and not gateway.engines.pool.has(variant):
            try:
                woken = await gateway.places.for_engine(
                    variant, limits, lambda: gateway.engines.pool.has(variant), limits.queue_seconds
                )
            except asyncio.CancelledError:
                exchange.asked = True  # who gives up waiting for it tells of it
                raise
            if not woken:
                exchange.asked = True
                message = f"variant {variant} is asleep and did not wake within {limits.queue_seconds:g} s"
                raise wire.Unavailable(message, retry_after=5)
        await gateway.places.enter(variant, limits, max(0.0, until - time.monotonic()))
        exchange.has_place = True
        now = gateway.routes
        # Its engines may have changed while it waited; a variant that was removed meanwhile still has the old ones.
        return now if now is not None and variant in now.variants else table

    def _settle(self, exchange: Exchange, table: RouteTable | None) -> None:
        gateway, metrics = self._gateway, self._gateway.metrics
        ended = time.perf_counter()
        exchange.settle()
        exchange.body.release()
        if exchange.has_place:
            gateway.places.leave()
        if exchange.admitted is not None:
            gateway.limiter.finish(exchange.admitted, time.monotonic(), exchange.tokens_used())
        variant, path = exchange.variant, exchange.path
        metrics.requests.add(variant, path, str(exchange.status))
        if exchange.status >= 500 and exchange.asked:
            metrics.errors.add(variant, str(exchange.status))
        metrics.latency.observe(ended - exchange.began, variant, path)
        stream = exchange.stream
        if stream is not None and stream.first_at:
            metrics.first_token.observe(stream.first_at - exchange.began, variant)
            if (seconds := stream.seconds_per_token) is not None:
                metrics.token.observe(seconds, variant)
        if exchange.usage is not None:
            metrics.tokens.add(variant, "prompt", amount=exchange.usage[0])
            metrics.tokens.add(variant, "completion", amount=exchange.usage[1])
        if table is not None and table.rollout and (seen := exchange.observation(table, ended)) is not None:
            gateway.observations.add(seen)


def _check_override(exchange: Exchange, table: RouteTable, variant: str, given: bool) -> None:
    admission.require_scope(exchange.key, given, "admin")
    if variant not in table.variants:
        message = f"there is no variant {variant[:100]!r}; they are {', '.join(table.variants)}"
        raise wire.ApiError(404, message, code="variant_not_found", param=OVERRIDE)
