"""What protects the gateway on each connection, before and beside its requests (RFC 9112): slow and endless headers,
unread answers, too many connections, and text that is not HTTP. Errors have OpenAI's shape here too.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from serving.config import LimitsConfig
from serving.gateway.wire import ApiError, Unavailable

KEEPALIVE_S = 75.0
"""An idle connection is closed after it."""

LINGER_S = 1.0
"""After an answer that came before its request's end: how long the rest is read away, so that the answer arrives."""

HEAD_BYTES = 32 << 10
SWEEP_S = 0.5
REFUSAL_S = 2.0
REFUSALS = 2
"""Of the connections too many, so many times the limit are told so; the rest are just closed."""

logger = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One client's connection.

    Attributes:
        head_since: when a request's head began to come, on the loop's clock; 0 while none is awaited.
        unread_since: when the client stopped to read what was sent; 0 while it reads.
    """

    __slots__ = ("head_bytes", "head_since", "unread_since")

    def __init__(self, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self.head_bytes = 0
        self.head_since = self.unread_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.head_since = self._loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        seen = self._request_count
        super().data_received(data)
        if self._request_count != seen:
            self.head_bytes, self.head_since = 0, 0.0
        elif self._waiter is not None and not self._messages:  # between requests, and the next one has begun
            self.head_bytes += len(data)
            self.head_since = self.head_since or self._loop.time()
            if self.head_bytes > HEAD_BYTES:
                self.refuse(ApiError(431, f"the head of the request is over {HEAD_BYTES} bytes"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread_since = self._loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread_since = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self._waiter is not None and not self._messages

    def refuse(self, error: ApiError) -> None:
        """Say why and close."""
        if self.transport is not None:
            self.transport.write(raw_answer(error))
        self.force_close()

    def check(self, now: float, limits: LimitsConfig) -> None:
        """Close the connection where its client takes too long."""
        if self.head_since and now - self.head_since > limits.header_seconds and self.is_idle:
            if self.head_bytes:
                seconds = f"{limits.header_seconds:g}"
                self.refuse(ApiError(408, f"the head of the request did not come within {seconds} s"))
            else:
                self.force_close()
        elif self.unread_since and now - self.unread_since > limits.stalled_seconds and self.transport is not None:
            self.transport.abort()

    def log_exception(self, *args: Any, **more: Any) -> None:
        if not isinstance(more.get("exc_info"), RequestPayloadError):  # the rest of a body that was refused already
            super().log_exception(*args, **more)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, and what the gateway itself did wrong."""
        if status >= 500:
            logger.error("a request to %s failed", request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; it can only be broken off")
        if status < 500:
            reason = " ".join((message or "").split())[:200]
            error = ApiError(status, f"this is not a valid HTTP request: {reason}", code="invalid_request")
        else:
            error = ApiError(status, "the gateway failed; its log says why", kind="server_error", code="internal_error")
        response = web.Response(status=status, body=error.body(), content_type="application/json")
        response.force_close()
        return response


class Refusing(asyncio.Protocol):
    """A connection too many: told so as soon as it says anything, and closed."""

    def __init__(self, guard: GuardedServer) -> None:
        self._guard = guard
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        if len(self._guard.refusing) >= REFUSALS * self._guard.limits.max_connections:
            transport.abort()
            return
        self._guard.refusing.add(self)
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(raw_answer(Unavailable("too many connections", code="overloaded")))
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._guard.refusing.discard(self)
        if self._timer is not None:
            self._timer.cancel()


class GuardedServer(web.Server):
    """aiohttp's server over guarded connections; a protocol factory.

    Attributes:
        limits: taken from each new table.
        refusing: connections too many, until they are closed.
    """

    def __init__(self, handler: Any) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
        )
        self.limits = LimitsConfig()
        self.refusing: set[Refusing] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def __call__(self) -> Any:
        if len(self._connections) >= self.limits.max_connections:
            return Refusing(self)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        return Connection(self, loop=self._loop, **self._kwargs)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_S, self.limits.header_seconds / 4, self.limits.stalled_seconds / 4))
            now = loop.time()
            for connection in self.connections:
                if isinstance(connection, Connection):
                    connection.check(now, self.limits)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection: idle ones at once, those with a request in flight after ``timeout`` seconds."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in self.connections:
            if isinstance(connection, Connection) and connection.is_idle:
                connection.force_close()
        await super().shutdown(timeout)


def raw_answer(error: ApiError) -> bytes:
    """An answer for a connection that has no request yet; the connection closes after it."""
    body = error.body()
    extra = "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
    head = f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{extra}Connection: close\r\n\r\n".encode() + body


def raise_open_files() -> int:
    """Allow this process as many open files as it may have; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
