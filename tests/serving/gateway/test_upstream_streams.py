"""Streams that the client of engines hands on, packet by packet."""

import asyncio

import pytest

from serving.gateway.connection import EngineLost
from tests.serving.gateway.scripted_engine import LAST_CHUNK, STREAM_HEAD, chunk, engine_that, post


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
