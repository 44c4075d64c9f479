"""An engine that sends exactly the bytes that a test writes."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

from serving.gateway.upstream import Upstream

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = JSON_HEAD + b'content-length: 8\r\n\r\n{"a": 1}'
LAST_CHUNK = b"0\r\n\r\n"

Conversation = Callable[["Peer"], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """One request, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        return head + await self.reader.readexactly(int(fields.get(b"Content-Length", 0)))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> bool:
        """Whether the client closes within five seconds."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Engine:
    """A server whose connections each hold one conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self.address = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self.conversation(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            writer.close()


@asynccontextmanager
async def engine_that(conversation: Conversation):
    engine = Engine(conversation)
    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    engine.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    upstream = Upstream()
    try:
        yield engine, upstream
    finally:
        upstream.close()
        server.close()
    assert engine.failures == []


def answering(*answers: bytes) -> Conversation:
    """One answer to each request of a connection, then it waits for the client to leave."""

    async def conversation(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.send(answer)
        await peer.closed()

    return conversation


async def post(upstream: Upstream, address: str, body: bytes = b"{}", timeout: float = 5.0, **headers: str):
    return await upstream.post(address, "/v1/completions", headers, body, first_byte_timeout=timeout)


async def whole(upstream: Upstream, address: str) -> bytes:
    with await post(upstream, address) as answer:
        return await answer.read()
