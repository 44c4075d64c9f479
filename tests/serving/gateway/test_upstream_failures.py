"""Engines that break off, are silent or absent, and callers who leave: what the client of engines says."""

import asyncio

import pytest

from serving.gateway.connection import EngineLost
from serving.gateway.upstream import Upstream
from tests.serving.gateway.scripted_engine import (
    JSON_HEAD,
    LAST_CHUNK,
    STREAM_HEAD,
    WHOLE,
    answering,
    chunk,
    engine_that,
    post,
    whole,
)

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
