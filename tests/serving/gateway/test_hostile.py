"""Clients that are slow, huge, broken or malicious: always a correct code or a clean close, never a 500."""

import asyncio
import gzip
import importlib.util
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario, until, raw_exchange, COMPLETION = harness.scenario, harness.until, harness.raw_exchange, harness.COMPLETION
BODY = json.dumps(COMPLETION).encode()


def post(*headers, body=BODY, length=True, start=b"POST /v1/completions HTTP/1.1\r\nHost: x"):
    lines = [start, *headers, *([b"Content-Length: %d" % len(body)] if length else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def statuses(answer):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


CLOSE = b"Connection: close"
RAW = [
    (post(CLOSE), 200),
    (b"nonsense\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
    (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
    (post(CLOSE, b"Content-Length: 5"), 400),
    (post(CLOSE, b"Transfer-Encoding: chunked"), 400),
    (post(CLOSE, b"Transfer-Encoding: chunked", length=False, body=b"zz\r\n"), 400),
    (post(CLOSE, b"X-User-Id: a", b"X-User-Id: b"), 400),
    (post(CLOSE, b"Authorization: Bearer a", b"Authorization: Bearer b"), 400),
    (post(CLOSE, b"Expect: the unexpected"), 417),
    (post(CLOSE, b"Content-Encoding: gzip", body=b"not gzip"), 400),
    (post(CLOSE, body=b"\xff\xfe{}"), 400),
    (post(CLOSE, body=b'{"prompt": NaN}'), 400),
    (post(CLOSE, body=b'{"temperature": 1e999}'), 400),
    (post(CLOSE, body=b"[" * 100_000), 400),
    (post(CLOSE, body=b'{"a":' * 5_000 + b"1" + b"}" * 5_000), 400),
    (post(CLOSE, body=b'{"a": ' + b"9" * 5000 + b"}"), 400),
    (post(CLOSE, body=b""), 400),
    (b"OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    (b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    (b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
    (b"HEAD /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 60_000 + b"\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 3000 + b"\r\n", 400),
]


def test_broken_requests_get_their_codes():
    @scenario()
    async def run(setup):
        answers = await asyncio.gather(*(raw_exchange(setup.port, data) for data, _ in RAW))
        for (data, status), answer in zip(RAW, answers, strict=True):
            assert statuses(answer) == [status], (data[:100], answer[:300])
            if status >= 400 and not data.startswith(b"HEAD"):
                head, _, body = answer.partition(b"\r\n\r\n")
                assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}, data[:100]
                assert b"application/json" in head

    run()


@scenario()
async def test_what_a_caller_names_cannot_split_the_answers_head(setup):
    for name in (b"X-Request-Id", b"X-Raymill-Override", b"X-User-Id"):
        for text in (b"a\nSet-Cookie: x=1", b"a\rSet-Cookie: x=1", b"a\x85b", b"\xff\xfe", b"a%0d%0aSet-Cookie: x"):
            answer = await raw_exchange(setup.port, post(CLOSE, name + b": " + text))
            assert b"\nSet-Cookie" not in answer and 500 not in statuses(answer)
    answer = await raw_exchange(setup.port, post(CLOSE, b"X-Request-Id: a b; c"))
    assert re.search(rb"X-Request-Id: [0-9a-f]{32}\r\n", answer)
    for engine in setup.engines:
        assert all("Set-Cookie" not in headers for headers in engine.headers)


@scenario()
async def test_pipelined_requests_are_answered_in_their_order(setup):
    ids = [b"X-Request-Id: r%d" % index for index in range(20)]
    answer = await raw_exchange(setup.port, b"".join(post(each) for each in ids[:-1]) + post(ids[-1], CLOSE))
    assert re.findall(rb"X-Request-Id: (r\d+)", answer) == [each.split()[1] for each in ids]


@scenario()
async def test_slow_headers_and_bodies_end_in_time(setup):
    setup.push(limits={"header_seconds": 0.3, "body_seconds": 0.3})
    assert await raw_exchange(setup.port, b"") == b""
    assert statuses(await raw_exchange(setup.port, b"POST /v1/comp")) == [408]
    assert statuses(await raw_exchange(setup.port, post(b"Content-Length: 500", body=b"{", length=False))) == [408]
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    reading = asyncio.create_task(reader.read())
    writer.write(b"GET /")
    while not reading.done():  # a drop now and then does not buy more time
        writer.write(b"x")
        await asyncio.sleep(0.02)
    assert statuses(reading.result()) == [408]
    writer.close()
    writer = (await asyncio.open_connection("127.0.0.1", setup.port))[1]
    writer.write(b"POST /v1/completions HTTP/1.1\r\n")
    await until(lambda: not [each for each, _ in setup.gateway._servers if each.connections])
    writer.close()


@scenario()
async def test_an_unending_head_is_cut(setup):
    answer = await raw_exchange(setup.port, b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 100_000)
    assert statuses(answer) in ([400], [431], [])


@scenario()
async def test_huge_bodies_are_refused_before_and_while_they_come(setup):
    setup.push(limits={"max_body_bytes": 100_000})
    head = post(b"Content-Length: 9999999999", length=False, body=b"")
    assert statuses(await raw_exchange(setup.port, head)) == [413]
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    chunked = post(b"Transfer-Encoding: chunked", length=False, body=chunk * 10)
    assert statuses(await raw_exchange(setup.port, chunked)) in ([413], [])
    bomb = gzip.compress(bytes(50_000_000))
    assert statuses(await raw_exchange(setup.port, post(CLOSE, b"Content-Encoding: gzip", body=bomb))) == [413]
    small = gzip.compress(BODY)
    assert statuses(await raw_exchange(setup.port, post(CLOSE, b"Content-Encoding: gzip", body=small))) == [200]
    assert setup.gateway.budget.held == 0
    big = json.dumps({**COMPLETION, "prompt": "x" * 90_000}).encode()
    assert statuses(await raw_exchange(setup.port, post(CLOSE, b"Expect: 100-continue", body=big))) in (
        [200],
        [100, 200],
    )
    assert setup.gateway.budget.held == 0


@scenario()
async def test_all_bodies_together_are_bounded(setup):
    setup.push(limits={"max_body_bytes": 200_000, "body_seconds": 2})
    held = [await asyncio.open_connection("127.0.0.1", setup.port) for _ in range(40)]
    for _, writer in held:
        writer.write(post(b"Content-Length: 200000", length=False, body=b" " * 199_000))
    await until(lambda: len(setup.gateway.metrics.refused.values) > 0)
    assert setup.gateway.budget.held <= 16 * 200_000
    assert (await setup.post(COMPLETION))[0] == 200  # small ones always go
    for _, writer in held:
        writer.close()
    await until(lambda: setup.gateway.budget.held == 0)


@scenario()
async def test_a_client_that_does_not_read_is_cut_off_and_the_engine_stopped(setup):
    setup.push(limits={"stalled_seconds": 0.3})
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port, limit=1024)
    writer.transport.pause_reading()
    writer.write(post(body=json.dumps({**COMPLETION, "prompt": "flood", "stream": True}).encode()))
    await until(lambda: sum(engine.cancelled for engine in setup.engines) == 1)
    assert not setup.gateway.places.ongoing
    writer.close()
    assert reader is not None


@scenario()
async def test_unread_pipelined_answers_do_not_pile_up(setup):
    setup.push(limits={"stalled_seconds": 1.5})
    _, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.transport.pause_reading()
    for _ in range(200):
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    (server, _), _ = setup.gateway._servers
    await until(lambda: server.connections)
    (connection,) = server.connections
    transport = connection.transport
    peak = 0
    for _ in range(300):
        peak = max(peak, transport.get_write_buffer_size())
        if not server.connections:
            break
        await asyncio.sleep(0.01)
    assert peak < 1 << 20
    assert not server.connections
    writer.close()


@scenario()
async def test_connections_beyond_the_limit_are_told_so(setup):
    setup.push(limits={"max_connections": 3})
    held = [await asyncio.open_connection("127.0.0.1", setup.port) for _ in range(3)]
    (server, _), _ = setup.gateway._servers
    await until(lambda: len(server.connections) == 3)
    answer = await raw_exchange(setup.port, post())
    assert statuses(answer) == [503] and b"Retry-After" in answer
    held[0][1].close()
    await until(lambda: len(server.connections) == 2)
    assert statuses(await raw_exchange(setup.port, post(CLOSE))) == [200]
    for _, writer in held:
        writer.close()


WORDS = b"POST |GET |/v1/completions| HTTP/1.1|Host: x|Content-Length: |Transfer-Encoding: chunked|X-User-Id: |{|}|%00"
PIECES = st.sampled_from(
    [*WORDS.split(b"|"), b"\r\n", b"\n", b"\r", b": ", b"0\r\n\r\n", b'"prompt"', b"\x00", b"\xff"]
)
NOISE = st.lists(PIECES | st.binary(max_size=20), max_size=25).map(b"".join)
HEADER = st.tuples(
    st.sampled_from(
        [b"X-User-Id", b"X-Session-Id", b"X-Request-Id", b"X-Raymill-Override", b"Authorization", b"Accept"]
    ),
    st.binary(max_size=40),
).map(lambda pair: pair[0] + b": " + pair[1])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)
FIELDS = ("prompt", "messages", "model", "user", "session", "stream", "stream_options", "max_tokens", "n", "best_of")
OBJECT = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6).map(lambda body: json.dumps(body).encode())
PATHS = st.sampled_from([b"/v1/completions", b"/v1/chat/completions", b"/v1/embeddings", b"/v1/feedback"])
REQUEST = st.builds(
    lambda path, headers, body: post(CLOSE, *headers, body=body, start=b"POST %s HTTP/1.1\r\nHost: x" % path),
    PATHS,
    st.lists(HEADER, max_size=4),
    OBJECT | st.binary(max_size=60) | NOISE,
)
KNOWN = {100, 200, 400, 401, 403, 404, 405, 408, 413, 417, 431, 503}


@pytest.fixture(scope="module")
def live():
    """One gateway for all examples, on a loop of its own."""
    loop = asyncio.new_event_loop()
    setup = harness.Setup()
    loop.run_until_complete(setup.start(harness.BASE_ONLY))
    setup.push(limits={"header_seconds": 0.5, "body_seconds": 0.5})
    yield lambda data: loop.run_until_complete(raw_exchange(setup.port, data, close=True, timeout=3))
    loop.run_until_complete(setup.close())
    loop.close()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUEST | NOISE)
def test_whatever_comes_is_answered_correctly_or_closed(live, caplog, data):
    answer = live(data)
    assert set(statuses(answer)) <= KNOWN, (data, answer[:500])
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
