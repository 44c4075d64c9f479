"""One HTTP/1.1 connection to an engine, with the answer that is being read from it (RFC 9112)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import httptools

from serving.gateway.pulse import Pulse

HEAD_BYTES = 64 << 10
STREAM_BYTES = 256 << 10
"""Bytes of a stream that may wait for its caller; above it the engine is not read."""

EVENT_STREAM = "text/event-stream"
StillWell = Callable[[], Awaitable[bool]]
"""Asked where nothing has come in time: whether it makes sense to wait as long again."""


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


class Connection(asyncio.Protocol):
    """Sends a request, takes its answer apart, and holds what has come of it until it is taken.

    Attributes:
        answer: whoever reads from it now.
        since: when it was last used, by the monotonic clock.
    """

    answer: object | None = None

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
