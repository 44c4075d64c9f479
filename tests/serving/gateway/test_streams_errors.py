"""Errors that an engine tells of within a stream, whose status is 200: saved by another engine, or passed on once."""

import asyncio
import importlib.util
import json
from pathlib import Path

import pytest
from aiohttp import web

from serving.config import ShadowConfig
from serving.gateway import wire
from serving.gateway.table import VariantRoute

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario, until = harness.scenario, harness.until

STREAMED = {**harness.COMPLETION, "stream": True}
TOKEN = b'data: {"id":"x","choices":[{"index":0,"text":"a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def error_event(code=500, message="EngineCore encountered an issue."):
    """As vLLM 0.29 writes it: json.dumps with its spaces."""
    error = {"message": message, "type": "InternalServerError", "param": None, "code": code}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


async def failing(setup, *pieces, health=503, lost=False):
    """The address of an engine whose streams are these pieces, each sent by itself."""

    async def generate(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.05)
        if lost:
            request.transport.abort()
        return response

    async def check(request):
        return web.Response(status=health)

    app = web.Application()
    app.router.add_post("/v1/completions", generate)
    app.router.add_get("/health", check)
    return await setup.serve(app)


def use(setup, *addresses):
    setup.push(variants=setup.routes(base=VariantRoute("base", addresses)), rollout=("base", "tuned"))


def stream_errors(setup):
    return setup.gateway.metrics.errors.values


@pytest.mark.parametrize("code", [500, None])
def test_an_error_as_the_first_event_is_saved_by_another_engine_and_the_engine_is_suspected(code):
    @scenario(fallback=False)
    async def run(setup):
        bad = await failing(setup, error_event(code), DONE)
        use(setup, bad, setup.addresses[0])
        setup.gateway.engines.pool.begin(setup.addresses[0])  # so that the failing one is asked first
        status, _, raw = await setup.post(STREAMED)
        assert status == 200 and b"error" not in raw and raw.endswith(DONE)
        await until(lambda: setup.gateway.engines.pool.ejected == {bad})
        (observation,) = setup.gateway.report().observations
        assert observation.retried and not observation.error and not stream_errors(setup)
        assert bad not in setup.gateway.engines.pool.ongoing

    run()


@scenario(fallback=False)
async def test_an_error_as_the_first_event_of_every_engine_is_an_error_with_its_code(setup):
    use(setup, *[await failing(setup, error_event(), DONE) for _ in range(2)])
    error = await setup.problem(500, STREAMED)
    assert error["message"] == "EngineCore encountered an issue."
    (observation,) = setup.gateway.report().observations
    assert observation.error and observation.retried
    assert stream_errors(setup) == {("base", "500"): 1} and not setup.gateway.engines.pool.ongoing


@pytest.mark.parametrize("lost", [False, True])
def test_an_error_in_the_middle_is_passed_on_once_and_counts(lost):
    @scenario()
    async def run(setup):
        bad = await failing(setup, TOKEN, error_event(), *([] if lost else [DONE]), lost=lost)
        use(setup, bad)
        status, _, raw = await setup.post(STREAMED)
        assert (status, raw) == (200, TOKEN + error_event() + (b"" if lost else DONE))
        await until(lambda: setup.gateway.engines.pool.ejected == {bad})
        (observation,) = setup.gateway.report().observations
        assert observation.error and observation.latency_s is None
        assert stream_errors(setup) == {("base", "stream"): 1}

    run()


@scenario()
async def test_a_caller_that_leaves_with_the_error_was_failed_all_the_same(setup):
    use(setup, await failing(setup, TOKEN, error_event(), *[b": still here\n\n"] * 100))
    async with setup.session.post(f"{setup.url}/v1/completions", json=STREAMED) as reply:
        async for line in reply.content:
            if b"error" in line:
                break
        reply.close()
    await until(lambda: setup.gateway.metrics.requests.values)
    assert [each.error for each in setup.gateway.report().observations] == [True]


@pytest.mark.parametrize("before", [b"", TOKEN])
def test_an_error_that_is_the_callers_is_passed_on_and_counts_for_nothing(before):
    @scenario()
    async def run(setup):
        pieces = [before] if before else []
        bad = await failing(setup, *pieces, error_event(400), DONE)
        use(setup, bad, setup.addresses[0])
        setup.gateway.engines.pool.begin(setup.addresses[0])
        status, _, raw = await setup.post(STREAMED)
        assert (status, raw) == (200, before + error_event(400) + DONE)
        (observation,) = setup.gateway.report().observations
        assert not observation.error and not observation.retried and observation.latency_s is None
        await asyncio.sleep(0.1)
        assert not stream_errors(setup) and not setup.gateway.engines.pool.ejected and not setup.asked

    run()


@scenario()
async def test_a_shadow_copys_error_is_its_outcome(setup):
    bad = await failing(setup, error_event(), DONE)
    routes = setup.routes(tuned=VariantRoute("tuned", (bad,)))
    setup.push(variants=routes, shadow=ShadowConfig(variant="tuned", share=1.0))
    assert (await setup.post(STREAMED))[0] == 200
    metrics = setup.gateway.metrics
    await until(lambda: metrics.shadow_requests.values == {("tuned", "500"): 1})
    assert not metrics.shadow_latency.counts and not metrics.shadow_first_token.counts


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (b'data:{"error":{"code":503}}\n\n', 503),
        (TOKEN + b'data:  { "error" : {"code": "429"}}\r\n\r\n', 429),
        (b'data: {"error": "no more"}\n\n', 500),
        (b'data: {"error": {"code": "stream_interrupted"}}\n\n', 500),
        (b'data: {"error": {"code": 99999}}\n\n', 500),
        (b'data: {"error": {"message"\n\n', 500),
        (b'data: {"error": null, "choices": []}\n\n', None),
        (b'data: {"choices":[{"text":"data: {\\"error\\": 1}"}]}\n\n', None),
        (b'data: {"choices":[{"text":"error"}],"x":{"error": 1}}\n\n', None),
    ],
)
def test_what_is_an_error_event(events, status):
    found = wire.event_error(events)
    assert (found and found.status) == status
