"""The endpoint that clients call: it decides who answers, and passes the bytes through.

One aiohttp application, outside Ray Serve's proxy: the answer's bytes come from the vLLM server as they are. What it
knows comes as a :class:`serving.gateway.table.RouteTable`; a new one takes effect with the next request.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from serving.gateway import wire
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.pool import EnginePool
from serving.gateway.table import RouteTable
from serving.split.assignment import Assignment

MAX_BODY_BYTES = 8 << 20
CONNECT_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 0.5
TRIES = 2
FAILURES = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""How an engine that is gone shows itself."""

CLIENT_LEFT = 499
LAST_EVENT = b"data: [DONE]"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ClientGone(Exception):
    """The caller closed the connection; aiohttp reports it as it reports a lost engine, which it is not."""


class Exchange:
    """One request on its way: who it belongs to, and what its answer says about it.

    Attributes:
        finished: whether a stream's last event was passed on; clients may hang up as soon as they have it.
    """

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.path = request.path
        self.began = time.perf_counter()
        self.id = wire.request_id(request.headers.get("X-Request-Id"), uuid.uuid4().hex)
        self.assignment: Assignment | None = None
        self.finished = False
        self._tail = b""

    def passed_on(self, piece: bytes) -> None:
        """Look for the stream's last event at the end of what went out; pieces break anywhere, also within it."""
        self._tail = (self._tail + piece)[-2 * len(LAST_EVENT) :]
        self.finished = self.finished or self._tail.rstrip().endswith(LAST_EVENT)

    @property
    def variant(self) -> str:
        """The variant that answers; empty before one is chosen."""
        return self.assignment.variant if self.assignment else ""

    def headers(self) -> dict[str, str]:
        """What the answer says of itself."""
        marks = {"X-Request-Id": self.id}
        if self.assignment:
            marks["X-Raymill-Variant"] = self.assignment.variant
            marks["X-Raymill-Assignment"] = "sticky" if self.assignment.sticky else "random"
        return marks


class Gateway:
    """The endpoint's state and handlers."""

    def __init__(self) -> None:
        self.routes: RouteTable | None = None
        self.pool = EnginePool()
        self.metrics = GatewayMetrics()
        self._session: aiohttp.ClientSession | None = None

    def update(self, routes: RouteTable) -> None:
        """Take a newer route table; requests in flight finish as they began."""
        if self.routes is None or routes.serial > self.routes.serial:
            self.routes = routes
            self.pool.update({name: route.addresses for name, route in routes.variants.items()})

    def application(self) -> web.Application:
        """The HTTP application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_in_shape])
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.cleanup_ctx.append(self._client)
        return app

    async def _client(self, app: web.Application) -> Any:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            probing = asyncio.create_task(self._probe_ejected())
            yield
            probing.cancel()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(request)
        status = CLIENT_LEFT  # stays so where the handler is cancelled
        try:
            response = await self._answer(exchange)
            status = response.status
            return response
        except wire.ApiError as error:
            status = error.status
            return _error_response(error, exchange.headers())
        except ClientGone:
            return web.Response(status=CLIENT_LEFT)  # nobody reads it
        finally:
            variant, path = exchange.variant, exchange.path
            if status == CLIENT_LEFT and exchange.finished:
                status = 200
            self.metrics.requests.add(status=str(status), variant=variant, path=path)
            if status >= 500:
                self.metrics.errors.add(variant=variant, kind=str(status))
            self.metrics.latency.observe(time.perf_counter() - exchange.began, variant=variant, path=path)

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        routes = self.routes
        if routes is None:
            raise wire.unavailable("the endpoint is starting")
        try:
            raw = await exchange.request.read()
        except web.HTTPRequestEntityTooLarge:
            raise wire.ApiError(413, f"the body is over {MAX_BODY_BYTES} bytes", code="request_too_large") from None
        body = wire.parse_body(raw)
        wire.check_model(body, routes.model)
        key = wire.user_key(exchange.request.headers, body)
        exchange.assignment = routes.allocation.assign(routes.experiment, key)
        sticky = "true" if exchange.assignment.sticky else "false"
        self.metrics.assignments.add(variant=exchange.variant, sticky=sticky)
        return await self._from_engines(exchange, routes, wire.engine_body(body, exchange.variant))

    async def _from_engines(self, exchange: Exchange, routes: RouteTable, body: bytes) -> web.StreamResponse:
        """Ask an engine; where it fails before its first byte, one other engine of the same variant."""
        tried: list[str] = []
        failed: web.StreamResponse | None = None
        while len(tried) < TRIES:
            address = self.pool.pick(exchange.variant, tried)
            if address is None:
                break
            if tried:
                self.metrics.retries.add(variant=exchange.variant)
            tried.append(address)
            try:
                with self.pool.working(address):
                    response = await self._from_engine(exchange, address, routes.key, body)
                if response.status < 500:
                    return response
                failed = response  # an engine that is going down says so before it exits
            except FAILURES:
                self._eject(address)
        if failed is not None:
            return failed
        reason = "its engine failed" if tried else "no engine of it is ready"
        raise wire.unavailable(f"variant {exchange.variant} cannot answer now: {reason}")

    async def _from_engine(self, exchange: Exchange, address: str, key: str, body: bytes) -> web.StreamResponse:
        assert self._session is not None
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "X-Request-Id": exchange.id,
        }
        async with self._session.post(address + exchange.path, data=body, headers=headers) as upstream:
            marks = {**exchange.headers(), "Content-Type": upstream.headers.get("Content-Type", "application/json")}
            if upstream.content_type != "text/event-stream":
                return web.Response(status=upstream.status, body=await upstream.read(), headers=marks)
            first = await upstream.content.readany()  # an engine that dies before it can still be replaced
            self.metrics.first_token.observe(time.perf_counter() - exchange.began, variant=exchange.variant)
            response = web.StreamResponse(status=upstream.status, headers={**marks, "Cache-Control": "no-cache"})
            await _to_client(response.prepare(exchange.request))
            await _to_client(response.write(first))
            exchange.passed_on(first)
            async for piece in self._pieces(exchange, upstream, address):
                await _to_client(response.write(piece))
                exchange.passed_on(piece)
            await _to_client(response.write_eof())
            return response

    async def _pieces(self, exchange: Exchange, upstream: aiohttp.ClientResponse, address: str) -> AsyncIterator[bytes]:
        """The rest of a stream as it comes. It cannot be retried any more: a break becomes an error event."""
        while True:
            try:
                piece = await upstream.content.readany()
            except FAILURES:
                self._eject(address)
                self.metrics.errors.add(variant=exchange.variant, kind="stream")
                yield wire.error_event("the engine stopped in the middle of the answer")
                return
            if not piece:
                return
            yield piece

    def _eject(self, address: str) -> None:
        self.metrics.ejections.add(address=address)
        self.pool.eject(address)

    async def _probe_ejected(self) -> None:
        """Put engines that answer again back into rotation."""
        assert self._session is not None
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            for address in list(self.pool.ejected):
                try:
                    async with self._session.get(f"{address}/health", timeout=aiohttp.ClientTimeout(total=2)) as reply:
                        if reply.status == 200:
                            self.pool.restore(address)
                except FAILURES:
                    continue

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._model_record()]})

    async def _model(self, request: web.Request) -> web.Response:
        record = self._model_record()
        wire.check_model({"model": request.match_info["model"]}, record["id"])
        return web.json_response(record)

    def _model_record(self) -> dict[str, Any]:
        if self.routes is None:
            raise wire.unavailable("the endpoint is starting")
        return {"id": self.routes.model, "object": "model", "created": self.routes.created, "owned_by": "raymill"}

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        if self.routes is None:
            raise wire.unavailable("the endpoint is starting")
        waiting = [name for name in self.routes.allocation.shares() if self.pool.pick(name) is None]
        if waiting:
            raise wire.unavailable(f"no engine is ready for: {', '.join(waiting)}")
        return web.json_response({"status": "ready"})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.render().encode(), headers={"Content-Type": "text/plain; version=0.0.4"})


async def _to_client(writing: Awaitable[Any]) -> None:
    try:
        await writing
    except (ConnectionError, aiohttp.ClientConnectionError) as error:
        raise ClientGone from error


@web.middleware
async def _errors_in_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except wire.ApiError as error:
        return _error_response(error, {})
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason}"
        return _error_response(
            wire.ApiError(error.status, message, code="not_found" if error.status == 404 else None), {}
        )


def _error_response(error: wire.ApiError, headers: dict[str, str]) -> web.Response:
    marks = {**headers, "Content-Type": "application/json"}
    if error.retry_after is not None:
        marks["Retry-After"] = str(error.retry_after)
    return web.Response(status=error.status, body=error.body(), headers=marks)
