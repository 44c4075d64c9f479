"""Connections to engines: kept, used again, and closed when they must be."""

import asyncio

import pytest

from serving.gateway import upstream as module
from serving.gateway.connection import EngineLost
from serving.gateway.upstream import Upstream
from tests.serving.gateway.scripted_engine import JSON_HEAD, WHOLE, Engine, answering, engine_that, post, whole


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
