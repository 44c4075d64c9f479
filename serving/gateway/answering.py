"""How a request gets its answer: from an engine of its variant, another one, or another variant; whole or streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http import StreamWriter

from serving.gateway import wire
from serving.gateway.connection import EngineLost
from serving.gateway.engines import Engines
from serving.gateway.exchange import Exchange
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.prompts import with_prompt
from serving.gateway.shadow import engine_headers
from serving.gateway.streams import EventStream
from serving.gateway.table import RouteTable

MOST_KILLED = 2
"""Engines that may break while they work on one request; the rest are spared what may be its doing."""

_NO_SUCH_MODEL = b"does not exist"


@dataclass
class Reply:
    """What an engine answers: a whole body, or a stream with its first events.

    Attributes:
        address: the engine, counted as at work until the reply is passed on.
    """

    address: str
    status: int
    content_type: str
    body: bytes
    stream: EventStream | None = None

    @property
    def is_trouble(self) -> bool:
        """Whether another engine might do better: this one is going down, or has lost its adapter or its key."""
        return (
            (self.status >= 500 and self.status != 501)
            or self.status == 401
            or (self.status == 404 and _NO_SUCH_MODEL in self.body)
        )


class ClientGone(Exception):
    """The caller closed the connection."""


class EventResponse(web.StreamResponse):
    """A stream whose chunks (RFC 9112, 7.1) go straight to the connection: a tenth less CPU than aiohttp's writer.

    Its head goes out with its first chunk, which is there when the answer begins.
    """

    _send_headers_immediately = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one chunk; waits while the caller does not read.

        Raises:
            ConnectionError: the caller has left.
        """
        writer, request = self._payload_writer, self._req
        if not isinstance(writer, StreamWriter) or not isinstance(request, web.BaseRequest):
            raise ConnectionResetError("the answer has not begun")
        if writer._headers_buf or not writer.chunked:  # the first; HTTP/1.0 knows no chunks
            await super().write(data)
            return
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller has left")
        transport.write(b"%x\r\n%b\r\n" % (len(data), bytes(data)))
        if request.protocol._paused:
            await request.protocol._drain_helper()


class Answering:
    """Asks engines and passes their answers on."""

    def __init__(self, engines: Engines, metrics: GatewayMetrics) -> None:
        self._engines, self._metrics = engines, metrics
        self.stopping = False

    def can_answer(self, table: RouteTable, variant: str) -> bool:
        """Whether an engine of a variant is in rotation."""
        return variant in table.variants and self._engines.pool.has(variant)

    def stand_in(self, table: RouteTable, shares: dict[str, float], missing: str) -> str | None:
        """The variant that answers in another's place: that with the largest share and a working engine."""
        others = [name for name in table.variants if name != missing and self._engines.pool.has(name)]
        return max(others, key=lambda name: shares.get(name, 0.0)) if others and table.fallback else None

    async def answer(
        self, exchange: Exchange, table: RouteTable, body: dict[str, Any], shares: dict[str, float]
    ) -> web.StreamResponse:
        """The answer, passed on.

        Raises:
            ApiError: 503 nobody can answer, 504 it takes too long, or every engine took too long to begin.
            ClientGone: nobody waits for it.
        """
        seconds = table.limits.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                reply = await self._reply(exchange, table, body, shares)
                try:
                    return await self._pass_on(exchange, reply, table.limits.event_seconds)
                finally:
                    self._engines.pool.end(reply.address)
                    if reply.stream is not None:
                        reply.stream.close()
        except TimeoutError:
            message = f"the answer took longer than {seconds:g} s"
            if exchange.stream is None:
                raise wire.ApiError(504, message, kind="server_error", code="timeout") from None
            return await self._break_off(exchange, message)
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            message = "the gateway is stopping; try again"
            if exchange.stream is None:
                raise wire.Unavailable(message) from None
            return await self._break_off(exchange, message)

    async def _reply(
        self, exchange: Exchange, table: RouteTable, body: dict[str, Any], shares: dict[str, float]
    ) -> Reply:
        trouble: Reply | None = None
        how, may_fall_back = exchange.how, exchange.how != "override"
        while True:
            reply = None
            if (route := table.variants.get(exchange.variant)) is not None:
                asked = with_prompt(body, exchange.path, route.prompt, table.limits)
                payload = wire.engine_body(asked, route.engine_model)
                other = self.stand_in(table, shares, exchange.variant) if may_fall_back else None
                renamed = wire.renamed(route.engine_model, table.model)
                reply = await self._from_variant(exchange, table, payload, renamed, desperate=other is None)
            if reply is not None and not reply.is_trouble:
                return reply
            trouble = trouble or reply
            other = self.stand_in(table, shares, exchange.variant) if may_fall_back else None
            if other is None:
                break
            may_fall_back = False
            self._metrics.fallbacks.add(exchange.assigned, other)
            exchange.variant, exchange.how = other, "fallback"
        exchange.variant, exchange.how = exchange.assigned, how
        if trouble is not None and trouble.status >= 500:
            self._engines.pool.begin(trouble.address)
            return trouble
        if exchange.tries and exchange.late_tries == exchange.tries:
            message = f"no engine of variant {exchange.assigned} began to answer within {table.limits.try_seconds:g} s"
            raise wire.ApiError(504, message, kind="server_error", code="timeout")
        raise wire.Unavailable(f"variant {exchange.assigned} cannot answer now: no engine of it works")

    async def _from_variant(
        self, exchange: Exchange, table: RouteTable, payload: bytes, renamed: tuple[bytes, bytes], *, desperate: bool
    ) -> Reply | None:
        """Ask one engine after the other until one answers well; otherwise its trouble, or nothing."""
        trouble: Reply | None = None
        killed = 0
        tried: list[str] = []
        for address in self._candidates(exchange.variant, tried, desperate):
            if tried:
                exchange.retried = True
                self._metrics.retries.add(exchange.variant)
            tried.append(address)
            exchange.tries += 1
            self._engines.pool.begin(address)
            keep = False
            try:
                reply = await self._ask(exchange, table, address, payload, renamed)
                keep = not reply.is_trouble
                if keep:
                    return reply
                trouble = reply
                self._engines.suspect(address)
            except EngineLost as lost:
                self._engines.lost(address)
                killed += not lost.refused
            except TimeoutError:
                exchange.late_tries += 1
                self._engines.suspect(address)
            finally:
                if not keep:
                    self._engines.pool.end(address)
            if killed >= MOST_KILLED:
                break
        return trouble

    def _candidates(self, variant: str, tried: list[str], desperate: bool) -> Iterator[str]:
        pool = self._engines.pool
        while (address := pool.pick(variant, tried)) is not None:
            yield address
        while desperate and (address := pool.pick(variant, tried, desperate=True)) is not None:
            yield address

    async def _ask(
        self, exchange: Exchange, table: RouteTable, address: str, payload: bytes, renamed: tuple[bytes, bytes]
    ) -> Reply:
        """One try.

        Raises:
            EngineLost: the engine is gone.
            TimeoutError: it did not begin in time.
        """
        seconds = table.limits.try_seconds
        headers = engine_headers(table, exchange.id)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await self._engines.post(
                address, exchange.path, headers, payload, try_seconds=seconds, streamed=exchange.streamed
            )
            content_type = answer.headers.get("content-type", wire.JSON)
            if not answer.is_stream:
                with answer:
                    body = await answer.read()
                    return Reply(address, answer.status, content_type, body.replace(*renamed, 1))
            stream = EventStream(answer, hide_usage=not exchange.show_usage, renamed=renamed)
            try:
                async with asyncio.timeout(max(0.0, began + seconds - loop.time())):
                    first = await stream.next()  # until it has come, another engine can still take over
            except BaseException:
                stream.close()
                raise
            if stream.error is not None:  # nothing was sent yet, so it counts as if the status had said it
                failed = Reply(address, stream.error.status, wire.JSON, stream.error.body)
                if failed.is_trouble:
                    stream.close()
                    return failed
            return Reply(address, answer.status, content_type, first, stream)
        except EngineLost as lost:
            if lost.late:
                raise TimeoutError from None  # slow is not gone
            raise

    async def _pass_on(self, exchange: Exchange, reply: Reply, event_seconds: float) -> web.StreamResponse:
        headers = exchange.headers()
        headers["Content-Type"] = reply.content_type
        if reply.stream is None:
            if reply.status < 400:
                exchange.usage = wire.usage(reply.body)
                body = reply.body
            else:
                body, headers["Content-Type"] = wire.in_shape(reply.status, reply.body), wire.JSON
            return web.Response(status=reply.status, body=body, headers=headers)
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"
        exchange.stream = stream = reply.stream
        exchange.response = response = EventResponse(status=reply.status, headers=headers)
        try:
            await response.prepare(exchange.request)
            piece = reply.body
            while piece:
                if stream.error is not None and stream.error.is_engines and not exchange.broken:
                    self._broken(exchange)
                    self._engines.suspect(reply.address)
                exchange.sent_at = None
                await response.write(piece)
                exchange.sent_at = time.perf_counter()
                stream.rest(event_seconds)
                try:
                    piece = await stream.next()
                except EngineLost:
                    self._engines.lost(reply.address)
                    return await self._break_off(exchange, "the engine stopped in the middle of the answer")
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone from error
        return response

    async def _break_off(self, exchange: Exchange, message: str) -> web.StreamResponse:
        """End a stream that cannot be finished with an event that says so."""
        response = exchange.response
        assert exchange.stream is not None and response is not None
        exchange.stream.close()
        try:
            if not response.prepared:
                await response.prepare(exchange.request)
            if not exchange.stream.finished:
                self._broken(exchange)
                await response.write(wire.error_event(message))
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone from error
        return response

    def _broken(self, exchange: Exchange) -> None:
        exchange.broken = True
        self._metrics.errors.add(exchange.variant, "stream")
