"""The client of engines against servers that send exactly the bytes that a test writes: requests and framings."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.gateway.scripted_engine import (
    JSON_HEAD,
    LAST_CHUNK,
    STREAM_HEAD,
    WHOLE,
    chunk,
    engine_that,
    post,
    whole,
)


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
