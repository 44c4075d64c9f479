"""The gateway's side towards engines: HTTP/1.1 over kept connections, as little of it as engines need (RFC 9112).

An answer in one piece is waited for whole; a stream is handed on as it comes, and a caller that does not take it stops
the reading. Whoever drops a request before its answer is complete closes the connection, which stops the generation.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from serving.gateway.pulse import Pulse

CONNECT_TIMEOUT_S = 5.0
IDLE_S = 4.0
"""Connections unused for longer are not used again: vLLM's server closes them after 5 s."""

HEAD_BYTES = 64 << 10
STREAM_BYTES = 256 << 10
"""Bytes of a stream that may wait for its caller; above it the engine is not read."""

EVENT_STREAM = "text/event-stream"
StillWell = Callable[[], Awaitable[bool]]
"""Asked where nothing has come in time: whether it makes sense to wait as long again."""

_LINE_BREAKING = re.compile(r"[\r\n\0]")
_TARGET = re.compile(r"^/[!-~]*$")


class EngineLost(Exception):
    """The engine is not there, or not any more: refused, reset, closed too early, too late, or not speaking HTTP.

    Attributes:
        unanswered: the connection was closed before the first byte; a kept one may merely have been too old.
        late: it said nothing for too long, and may yet be well.
        refused: there was no connection, so the request cannot be what ended the engine.
    """

    def __init__(self, reason: str, *, unanswered: bool = False, refused: bool = False, late: bool = False) -> None:
        super().__init__(reason)
        self.unanswered, self.refused, self.late = unanswered, refused, late


class UpstreamAnswer:
    """An engine's answer. Close it, or use it as a context manager; closed before its end, it ends the generation.

    Attributes:
        status: the HTTP status.
        headers: by lower-case names; of those given twice, the last.
        is_stream: whether it is a stream of server-sent events; iterate it then, and otherwise :meth:`read` it.
    """

    __slots__ = ("_connection", "_upstream", "headers", "is_stream", "status")

    def __init__(self, upstream: Upstream, connection: _Connection) -> None:
        self.status, self.headers, self.is_stream = connection.status, connection.headers, connection.is_stream
        self._upstream, self._connection = upstream, connection

    async def read(self) -> bytes:
        """The rest of the body.

        Raises:
            EngineLost: it broke off.
        """
        pieces = []
        while piece := await self._connection.take():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def piece(self) -> bytes:
        """What has come of the body, as soon as there is any; nothing at its end.

        Raises:
            EngineLost: it broke off.
        """
        return await self._connection.take()

    def rest(self, seconds: float) -> None:
        """Let what comes until the present interval of so long is over be handed on together, or with the end."""
        self._connection.rest(seconds)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._connection.take():
            yield piece

    def close(self) -> None:
        """Keep the connection where the answer is complete, otherwise close it. Harmless to repeat."""
        self._upstream._release(self._connection, self)

    def __enter__(self) -> UpstreamAnswer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Upstream:
    """Connections to engines, kept by address. One event loop, no locks."""

    def __init__(self, connect_timeout: float = CONNECT_TIMEOUT_S) -> None:
        self._connect_timeout = connect_timeout
        self._idle: dict[str, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._pulse: Pulse | None = None
        self._origins: dict[str, tuple[str, int, str]] = {}

    async def post(
        self,
        address: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        first_byte_timeout: float,
        still_well: StillWell | None = None,
    ) -> UpstreamAnswer:
        """Send a request; returns with a stream's head, or with the whole of another answer.

        Args:
            address: the engine's base URL, ``http://host:port``.
            headers: sent besides ``Host`` and ``Content-Length``.
            first_byte_timeout: seconds.
            still_well: asked when they are over; they begin anew where it says so.

        Raises:
            EngineLost: there will be no answer.
            ValueError: a header or the path would break the request apart.
        """
        return await self._ask("POST", address, path, headers, body, first_byte_timeout, still_well)

    async def get(
        self, address: str, path: str, headers: Mapping[str, str] | None = None, *, first_byte_timeout: float
    ) -> UpstreamAnswer:
        """As :meth:`post`, without a body."""
        return await self._ask("GET", address, path, headers or {}, None, first_byte_timeout)

    def forget(self, address: str) -> None:
        """Close the unused connections to an engine that is gone."""
        self._origins.pop(address, None)
        for connection in self._idle.pop(address, []):
            connection.abort()

    def close(self) -> None:
        """Close every connection."""
        for address in list(self._idle):
            self.forget(address)
        for connection in list(self._busy):
            connection.abort()

    async def _ask(
        self,
        method: str,
        address: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        still_well: StillWell | None = None,
    ) -> UpstreamAnswer:
        host, port, authority = self._origin(address)
        request = _encode(method, authority, path, headers, body)
        connection = self._kept(address)
        if connection is not None:
            try:
                return await self._on(connection, request, timeout, still_well)
            except EngineLost as lost:
                if not lost.unanswered:
                    raise
            # The server may close a kept connection at the moment it is used again: that says nothing about the engine.
            try:
                return await self._on(await self._connect(address, host, port), request, timeout, still_well)
            except EngineLost as lost:
                lost.refused = False  # it had the request, and may have ended of it
                raise
        return await self._on(await self._connect(address, host, port), request, timeout, still_well)

    async def _on(
        self, connection: _Connection, request: bytes, timeout: float, still_well: StillWell | None
    ) -> UpstreamAnswer:
        self._busy.add(connection)
        try:
            await connection.ask(request, timeout, still_well)
        except BaseException:
            self._busy.discard(connection)
            connection.abort()
            raise
        connection.answer = answer = UpstreamAnswer(self, connection)
        return answer

    def _origin(self, address: str) -> tuple[str, int, str]:
        origin = self._origins.get(address)
        if origin is None:
            parts = urlsplit(address)
            if parts.scheme != "http" or not parts.hostname:
                raise ValueError(f"an engine's address is http://host:port, not {address!r}")
            origin = self._origins[address] = (parts.hostname, parts.port or 80, parts.netloc)
        return origin

    def _kept(self, address: str) -> _Connection | None:
        idle = self._idle.get(address)
        oldest = time.monotonic() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.open and connection.since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self, address: str, host: str, port: int) -> _Connection:
        loop = asyncio.get_running_loop()
        pulse = self._pulse = self._pulse or Pulse(loop)
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(lambda: _Connection(loop, address, pulse), host, port)
        except TimeoutError:
            raise EngineLost(f"no connection to {address} within {self._connect_timeout:g} s", refused=True) from None
        except OSError as error:
            raise EngineLost(f"no connection to {address}: {error}", refused=True) from None
        return connection

    def _release(self, connection: _Connection, answer: UpstreamAnswer) -> None:
        if connection.answer is not answer:
            return
        connection.answer = None
        self._busy.discard(connection)
        if connection.reusable:
            connection.since = time.monotonic()
            idle = self._idle.setdefault(connection.address, [])
            while idle and not idle[0].open:  # the last used is used next, so the engine closes the first
                idle.pop(0)
            idle.append(connection)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, with the answer that is being read from it."""

    answer: UpstreamAnswer | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, pulse: Pulse) -> None:
        self.address, self.since = address, 0.0
        self._loop, self._pulse = loop, pulse
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._lost: EngineLost | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None
        self._asked = self._paused = self._keep = self._resting = False
        self._expect()

    def _expect(self) -> None:
        self.status, self.headers, self.is_stream = 0, dict[str, str](), False
        self.complete = False
        self._received = 0
        self._rest_until = 0.0
        self._pieces: list[bytes] = []

    @property
    def open(self) -> bool:
        return self._lost is None and self._transport is not None and not self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        return self.complete and self._keep and not self._pieces and self.open

    async def ask(self, request: bytes, timeout: float, still_well: StillWell | None) -> None:
        """Send, and wait until there is something to hand on: a stream's head, or the whole answer."""
        if self._transport is None or self._lost:
            raise EngineLost(f"{self.address} closed the connection", unanswered=True)
        self._expect()
        self._asked = True
        self._timer = self._loop.call_later(timeout, self._late, timeout, still_well)
        try:
            self._transport.write(request)
            while not (self.complete or (self.is_stream and self.status)):
                await self._wait()
        finally:
            self._timer.cancel()
            if self._look is not None:
                self._look.cancel()
                self._look = None

    async def take(self) -> bytes:
        """What has come of the body; nothing at its end."""
        while not self._pieces:
            if self.complete:
                return b""
            await self._wait()
        pieces = self._pieces
        self._pieces = []
        self._received = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait(self) -> None:
        if self._lost:
            raise self._lost
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def rest(self, seconds: float) -> None:
        """Hand nothing on before the present interval of so long is over, but an answer's end."""
        self._rest_until = self._pulse.end(seconds) if seconds else 0.0

    def abort(self) -> None:
        """Close at once, without sending what is left."""
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        self._resting = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str, *, unanswered: bool = False, late: bool = False) -> None:
        if self._lost is None:
            self._lost = EngineLost(f"{self.address} {reason}", unanswered=unanswered, late=late)
        self.abort()
        self._wake()

    def _late(self, timeout: float, still_well: StillWell | None) -> None:
        if self.status:
            return
        if still_well is None:
            self._fail(f"sent nothing within {timeout:g} s", late=True)
        else:
            self._look = self._loop.create_task(self._look_again(timeout, still_well))

    async def _look_again(self, timeout: float, still_well: StillWell) -> None:
        """Wait on where the engine is well; cancelled when there is something to hand on."""
        if await still_well():
            self._timer = self._loop.call_later(timeout, self._late, timeout, still_well)
        else:
            self._late(timeout, None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if not self._asked:
            self._fail("sent what nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"does not speak HTTP: {error}")
            return
        self._received += len(data)
        if not self.status and self._received > HEAD_BYTES:
            self._fail(f"sent a head of over {HEAD_BYTES} bytes")
        elif self.is_stream and self._received > STREAM_BYTES and not self._paused and not self.complete:
            self._paused = True
            if self._transport is not None:
                self._transport.pause_reading()
        if self.complete:
            self._wake()
        elif self.is_stream and not self._resting:
            if self._rest_until > self._loop.time():
                self._resting = True
                self._pulse.wait(self._rest_until, self._wake)
            else:
                self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        until_close = self.status and not {"content-length", "transfer-encoding"} & set(self.headers)
        if until_close and error is None:
            self.complete = True  # a body without a length ends with the connection
        how = f"broke the connection: {error}" if error else "closed the connection"
        began = self.status or self._received
        self._fail(f"{how} before the end of its answer" if began else how, unanswered=not began)

    # httptools

    def on_message_begin(self) -> None:
        if not self._asked:
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like come before the answer
            self.headers = {}
            return
        self.is_stream = self.headers.get("content-type", "").startswith(EVENT_STREAM)
        self.status = status

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            self._asked = False
            self._keep = bool(self._parser.should_keep_alive())  # it knows only until the callback's end


def _encode(method: str, authority: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    if not _TARGET.match(path):
        raise ValueError(f"not a path: {path!r}")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority}", *(f"{name}: {text}" for name, text in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if any(_LINE_BREAKING.search(line) for line in lines):
        raise ValueError("a header holds a line break or a null character")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
