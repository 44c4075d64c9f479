"""The gateway's side towards engines: HTTP/1.1 over kept connections, as little of it as engines need (RFC 9112).

An answer in one piece is waited for whole; a stream is handed on as it comes, and a caller that does not take it stops
the reading. Whoever drops a request before its answer is complete closes the connection, which stops the generation.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

from serving.gateway.connection import Connection, EngineLost, StillWell
from serving.gateway.pulse import Pulse

CONNECT_TIMEOUT_S = 5.0
IDLE_S = 4.0
"""Connections unused for longer are not used again: vLLM's server closes them after 5 s."""

_LINE_BREAKING = re.compile(r"[\r\n\0]")
_TARGET = re.compile(r"^/[!-~]*$")


class UpstreamAnswer:
    """An engine's answer. Close it, or use it as a context manager; closed before its end, it ends the generation.

    Attributes:
        status: the HTTP status.
        headers: by lower-case names; of those given twice, the last.
        is_stream: whether it is a stream of server-sent events; iterate it then, and otherwise :meth:`read` it.
    """

    __slots__ = ("_connection", "_upstream", "headers", "is_stream", "status")

    def __init__(self, upstream: Upstream, connection: Connection) -> None:
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
        self._idle: dict[str, list[Connection]] = {}
        self._busy: set[Connection] = set()
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
        self, connection: Connection, request: bytes, timeout: float, still_well: StillWell | None
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

    def _kept(self, address: str) -> Connection | None:
        idle = self._idle.get(address)
        oldest = time.monotonic() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.open and connection.since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self, address: str, host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        pulse = self._pulse = self._pulse or Pulse(loop)
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(lambda: Connection(loop, address, pulse), host, port)
        except TimeoutError:
            raise EngineLost(f"no connection to {address} within {self._connect_timeout:g} s", refused=True) from None
        except OSError as error:
            raise EngineLost(f"no connection to {address}: {error}", refused=True) from None
        return connection

    def _release(self, connection: Connection, answer: UpstreamAnswer) -> None:
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


def _encode(method: str, authority: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    if not _TARGET.match(path):
        raise ValueError(f"not a path: {path!r}")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority}", *(f"{name}: {text}" for name, text in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if any(_LINE_BREAKING.search(line) for line in lines):
        raise ValueError("a header holds a line break or a null character")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
