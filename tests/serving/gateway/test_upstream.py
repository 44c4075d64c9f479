"""The client of engines against servers that send exactly the bytes that a test writes."""

import asyncio
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway import upstream as module
from serving.gateway.connection import EngineLost
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


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    return request.param


def test_the_request_is_what_rfc_9112_asks_for(run):
    async def scenario():
        seen = []

        async def conversation(peer):
            seen.append(await peer.request())
            await peer.send(WHOLE)

        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address, b'{"b": 2}', Authorization="Bearer k") as answer:
                assert (answer.status, answer.is_stream, await answer.read()) == (200, False, b'{"a": 1}')
                assert answer.headers["content-type"] == "application/json"
        authority = engine.address.removeprefix("http://").encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: " + authority + b"\r\nAuthorization: Bearer k\r\n"
        assert seen == [head + b'Content-Length: 8\r\n\r\n{"b": 2}']

    run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(b'{"a"') + chunk(b": 1}") + LAST_CHUNK,
        JSON_HEAD + b"connection: close\r\n\r\n" + b'{"a": 1}',
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    ],
    ids=["length", "chunked", "until it closes", "after a 100"],
)
def test_an_answer_in_one_piece_arrives_in_every_framing(run, answer):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            await peer.send(answer)

        async with engine_that(conversation) as (engine, upstream):
            assert await whole(upstream, engine.address) == b'{"a": 1}'

    run(scenario())


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    cuts=st.sets(st.integers(1, 400), max_size=8),
    stream=st.booleans(),
)
def test_where_the_bytes_break_makes_no_difference(pieces, cuts, stream):
    head = STREAM_HEAD if stream else JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n"
    raw = head + b"".join(map(chunk, pieces)) + LAST_CHUNK
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]

    async def scenario():
        async def conversation(peer):
            await peer.request()
            for start, end in itertools.pairwise(edges):
                await peer.send(raw[start:end])
                await asyncio.sleep(0)
            await peer.closed()

        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address) as answer:
                assert answer.is_stream == stream
                assert await answer.read() == b"".join(pieces)

    asyncio.run(scenario())


def test_a_stream_is_handed_on_as_it_comes(run):
    async def scenario():
        taken = asyncio.Event()

        async def conversation(peer):
            await peer.request()
            await peer.send(STREAM_HEAD)
            for number in range(3):
                await peer.send(chunk(b"data: %d\n\n" % number))
                await taken.wait()  # the next piece only once this one has been seen
                taken.clear()
            await peer.send(LAST_CHUNK)

        async with engine_that(conversation) as (engine, upstream):
            pieces = []
            with await post(upstream, engine.address) as answer:
                async for piece in answer:
                    pieces.append(piece)
                    taken.set()
                assert await answer.piece() == b""
            assert pieces == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]

    run(scenario())


def test_what_follows_within_an_interval_is_handed_on_with_the_answers_end(run):
    async def scenario():
        resting = asyncio.Event()

        async def conversation(peer):
            await peer.request()
            await peer.send(STREAM_HEAD + chunk(b"data: 0\n\n"))
            await resting.wait()
            for number in range(1, 4):
                await peer.send(chunk(b"data: %d\n\n" % number))
                await asyncio.sleep(0.02)  # each arrives by itself
            await peer.send(LAST_CHUNK)

        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address) as answer:
                assert await answer.piece() == b"data: 0\n\n"  # the first rests for nobody
                answer.rest(1e6)
                resting.set()
                assert await answer.piece() == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
                assert await answer.piece() == b""

    run(scenario())


def test_a_rest_ends_by_itself_and_is_not_kept_for_the_next_answer(run):
    async def scenario():
        taken = asyncio.Event()

        async def conversation(peer):
            for _ in range(2):
                await peer.request()
                await peer.send(STREAM_HEAD + chunk(b"data: 0\n\n"))
                await taken.wait()
                taken.clear()
                await peer.send(chunk(b"data: 1\n\n"))
                await taken.wait()  # it comes though the answer has not ended
                taken.clear()
                await peer.send(LAST_CHUNK)
            await peer.closed()

        async with engine_that(conversation) as (engine, upstream):
            for rest in (0.05, 0.0):
                with await post(upstream, engine.address) as answer:
                    for number in range(2):
                        assert await answer.piece() == b"data: %d\n\n" % number
                        answer.rest(rest)
                        taken.set()
                    assert await answer.piece() == b""
            assert len(engine.peers) == 1

    run(scenario())


def test_a_resting_stream_that_breaks_gives_what_came_and_then_the_error(run):
    async def scenario():
        resting = asyncio.Event()

        async def conversation(peer):
            await peer.request()
            await peer.send(STREAM_HEAD + chunk(b"data: 0\n\n"))
            await resting.wait()
            await peer.send(chunk(b"data: 1\n\n"))
            await asyncio.sleep(0.05)
            peer.reset()

        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address) as answer:
                assert await answer.piece() == b"data: 0\n\n"
                answer.rest(1e6)
                resting.set()
                assert await answer.piece() == b"data: 1\n\n"
                with pytest.raises(EngineLost):
                    await answer.piece()

    run(scenario())


def test_connections_are_kept_and_used_again(run):
    async def scenario():
        async with engine_that(answering(*[WHOLE] * 5)) as (engine, upstream):
            for _ in range(5):
                assert await whole(upstream, engine.address) == b'{"a": 1}'
            assert len(engine.peers) == 1

    run(scenario())


@pytest.mark.parametrize("why", ["the engine says so", "too old"])
def test_a_connection_is_not_used_again_where_it_must_not(why, monkeypatch):
    if why == "too old":
        monkeypatch.setattr(module, "IDLE_S", -1.0)
        answer = WHOLE
    else:
        answer = JSON_HEAD + b'connection: close\r\ncontent-length: 8\r\n\r\n{"a": 1}'

    async def scenario():
        closed = []

        async def conversation(peer):
            await peer.request()
            await peer.send(answer)
            closed.append(await peer.closed())

        async with engine_that(conversation) as (engine, upstream):
            for _ in range(3):
                assert await whole(upstream, engine.address) == b'{"a": 1}'
            assert len(engine.peers) == 3
            upstream.close()
            await asyncio.sleep(0.05)
        assert closed == [True] * 3  # and no byte of another request

    asyncio.run(scenario())


def test_a_kept_connection_that_the_engine_closes_on_reuse_is_no_lost_engine(run):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            await peer.send(WHOLE)
            await peer.request()  # and closes without a word, as a server whose keep-alive time is over

        async with engine_that(conversation) as (engine, upstream):
            for _ in range(4):
                assert await whole(upstream, engine.address) == b'{"a": 1}'
            assert len(engine.peers) == 4

    run(scenario())


def test_an_engine_that_ended_over_a_request_was_not_merely_absent(run):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            await peer.send(WHOLE)
            await peer.request()
            server.close()  # nobody listens any more, and this connection goes as well

        engine = Engine(conversation)
        server = await asyncio.start_server(engine, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        upstream = Upstream()
        assert await whole(upstream, address) == b'{"a": 1}'
        with pytest.raises(EngineLost) as caught:
            await whole(upstream, address)
        assert not caught.value.refused
        upstream.close()

    run(scenario())


def test_hundred_requests_at_once_each_get_their_own_answer(run):
    async def scenario():
        async def conversation(peer):
            while True:
                body = (await peer.request()).partition(b"\r\n\r\n")[2]
                await asyncio.sleep(0.001 * (int(body) % 7))
                await peer.send(JSON_HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body))

        async with engine_that(conversation) as (engine, upstream):

            async def ask(number):
                with await post(upstream, engine.address, b"%d" % number) as answer:
                    return int(await answer.read())

            for _ in range(3):
                assert await asyncio.gather(*map(ask, range(100))) == list(range(100))
            assert len(engine.peers) <= 100

    run(scenario())


ENDS = {
    "before a byte": b"",
    "in the head": JSON_HEAD,
    "before the body's length": JSON_HEAD + b'content-length: 9\r\n\r\n{"a": 1}',
    "in a chunk": JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\nshort",
    "before the last chunk": JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"{}"),
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * (128 << 10),
}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", ENDS.values(), ids=ENDS.keys())
def test_every_way_to_go_is_one_error(run, sent, reset):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            await peer.send(sent)
            await asyncio.sleep(0.02)
            if reset:
                peer.reset()

        async with engine_that(conversation) as (engine, upstream):
            with pytest.raises(EngineLost) as caught:
                await whole(upstream, engine.address)
            assert not caught.value.refused
            assert len(engine.peers) == 1  # a first connection that breaks is the engine's fault

    run(scenario())


def test_nobody_there_is_the_same_error(run):
    async def scenario():
        async with engine_that(answering(WHOLE)) as (engine, upstream):
            pass
        with pytest.raises(EngineLost, match="no connection") as caught:
            await whole(upstream, engine.address)
        assert caught.value.refused

    run(scenario())


def test_a_stream_that_breaks_gives_what_came_and_then_the_error(run):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            await peer.send(STREAM_HEAD + chunk(b"data: 0\n\n"))
            await asyncio.sleep(0.02)
            peer.reset()

        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address) as answer:
                assert await answer.piece() == b"data: 0\n\n"
                with pytest.raises(EngineLost):
                    await answer.piece()

    run(scenario())


def test_silence_ends_after_the_time_for_the_first_byte_and_not_after_it(run):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            if len(engine.peers) > 1:
                left.set_result(await peer.closed())
                return
            await peer.send(STREAM_HEAD)
            await asyncio.sleep(0.7)
            await peer.send(chunk(b"late") + LAST_CHUNK)

        left = asyncio.get_running_loop().create_future()
        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address, timeout=0.5) as answer:
                assert await answer.read() == b"late"
            upstream.forget(engine.address)
            with pytest.raises(EngineLost, match="nothing within"):
                await post(upstream, engine.address, timeout=0.05)
            assert await left

    run(scenario())


def test_a_connection_that_does_not_come_about_ends_too(monkeypatch):
    async def scenario():
        async def never(*args, **kwargs):
            await asyncio.sleep(60)

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
        with pytest.raises(EngineLost, match="no connection"):
            await whole(Upstream(connect_timeout=0.02), "http://127.0.0.1:9")

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["before the head", "within the stream", "given up"])
def test_whoever_leaves_early_closes_the_connection(run, when):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            if when != "before the head":
                await peer.send(STREAM_HEAD + chunk(b"data: 0\n\n"))
            left.set_result(await peer.closed())

        async def caller():
            with await post(upstream, engine.address) as answer:
                assert await answer.piece()
                began.set()
                if when == "given up":
                    return
                await answer.piece()

        left, began = asyncio.get_running_loop().create_future(), asyncio.Event()
        async with engine_that(conversation) as (engine, upstream):
            task = asyncio.create_task(caller())
            if when == "before the head":
                await asyncio.sleep(0.05)
            else:
                await began.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await left

    run(scenario())


def test_a_caller_that_does_not_take_stops_the_reading(run):
    size, piece = 64 << 20, b"x" * (64 << 10)

    async def scenario():
        sent = 0

        async def conversation(peer):
            nonlocal sent
            await peer.request()
            await peer.send(STREAM_HEAD)
            while sent < size:
                await peer.send(chunk(piece))
                sent += len(piece)
            await peer.send(LAST_CHUNK)

        async with engine_that(conversation) as (engine, upstream):
            with await post(upstream, engine.address) as answer:
                before = -1
                while before != sent:  # until the engine cannot send any more
                    before = sent
                    await asyncio.sleep(0.2)
                assert sent < size / 2
                assert len(await answer.read()) == size

    run(scenario())


@pytest.mark.parametrize("path, value", [("/v1/x", "a\r\nX-Evil: 1"), ("/v1/x", "a\0"), ("/v1/x HTTP/1.1\r\n", "a")])
def test_nothing_breaks_the_request_apart(path, value):
    async def scenario():
        async with engine_that(answering(WHOLE)) as (engine, upstream):
            with pytest.raises(ValueError):
                await upstream.post(engine.address, path, {"X-Request-Id": value}, b"", first_byte_timeout=1)
            assert engine.peers == []

    asyncio.run(scenario())


def test_what_nobody_asked_for_closes_a_kept_connection(run):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            await peer.send(WHOLE)
            await asyncio.sleep(0.02)
            await peer.send(WHOLE)
            assert await peer.closed()

        async with engine_that(conversation) as (engine, upstream):
            assert await whole(upstream, engine.address) == b'{"a": 1}'
            await asyncio.sleep(0.1)
            engine.conversation = answering(JSON_HEAD + b"content-length: 2\r\n\r\n[]")
            assert await whole(upstream, engine.address) == b"[]"

    run(scenario())


def test_a_second_answer_to_one_request_changes_nothing_of_the_first(run):
    async def scenario():
        other = WHOLE.replace(b'{"a": 1}', b'{"b": 2}')
        async with engine_that(answering(WHOLE + other)) as (engine, upstream):
            for _ in range(2):
                with await post(upstream, engine.address) as answer:
                    assert (await answer.read(), answer.headers["content-length"]) == (b'{"a": 1}', "8")
            assert len(engine.peers) == 2

    run(scenario())


def test_connections_that_the_engine_has_closed_are_not_kept(run):
    async def scenario():
        async def conversation(peer):
            await peer.request()
            if len(engine.peers) == 20:
                together.set()
            await together.wait()
            await peer.send(WHOLE)
            if peer is not engine.peers[-1]:
                await asyncio.sleep(0.02)  # and closes
                return
            for _ in range(20):
                await peer.request()
                await peer.send(WHOLE)

        together = asyncio.Event()
        async with engine_that(conversation) as (engine, upstream):
            await asyncio.gather(*(whole(upstream, engine.address) for _ in range(20)))
            await asyncio.sleep(0.1)
            for _ in range(20):
                await whole(upstream, engine.address)
            assert len(engine.peers) == 20
            assert len(upstream._idle[engine.address]) == 1

    run(scenario())
