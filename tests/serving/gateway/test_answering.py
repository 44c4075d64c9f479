"""Who answers: another engine, another variant, a sleeping one that wakes; prompts, shadow copies, time limits."""

import asyncio
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from serving.config import PromptConfig, ShadowConfig
from serving.gateway.table import VariantRoute

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario, until, COMPLETION = harness.scenario, harness.until, harness.COMPLETION


async def hang(request):
    await asyncio.sleep(60)


async def half(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.sleep(60)


def engine_like(handler, health):
    """An engine that answers so, and its health check with a status; it counts no tokens as done."""

    async def check(request):
        return web.Response(status=health)

    async def metrics(request):
        return web.Response(text='vllm:generation_tokens_total{engine="0"} 7.0\n')

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/completions", handler)
    app.router.add_get("/health", check)
    return app


CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "user": "u1"}


@scenario()
async def test_another_variant_answers_marked_where_no_engine_of_its_own_works(setup):
    setup.push(variants=setup.routes(base=VariantRoute("base", ("http://127.0.0.1:9",))), rollout=("base", "tuned"))
    for _ in range(3):
        status, headers, raw = await setup.post(COMPLETION)
        assert (status, headers["X-Raymill-Variant"], headers["X-Raymill-Assignment"]) == (200, "tuned", "fallback")
        assert json.loads(raw)["asked"] == "tuned"
    seen = setup.gateway.report().observations
    assert [(each.variant, each.error, each.fallback, each.latency_s) for each in seen] == [
        ("base", True, True, None)
    ] * 3
    assert setup.gateway.metrics.fallbacks.values == {("base", "tuned"): 3}
    assert (await setup.get("/ready"))[0] == 200
    setup.push(fallback=False)
    await setup.problem(503, COMPLETION)
    (observation,) = setup.gateway.report().observations
    assert observation.error and not observation.fallback


@scenario(fallback=False)
async def test_the_last_engine_is_tried_although_it_is_out_of_rotation(setup):
    for address in setup.addresses[:2]:
        setup.gateway.engines.pool.eject(address)
    assert (await setup.post(COMPLETION))[0] == 200


@scenario({"base": 0, "tuned": 1})
async def test_a_request_wakes_a_sleeping_variant_and_waits(setup):
    setup.push(variants=setup.routes(tuned=VariantRoute("tuned", (), asleep=True)))
    assert (await setup.get("/ready"))[0] == 200
    waiting = [asyncio.create_task(setup.post({**COMPLETION, "user": f"u{i}"})) for i in range(3)]
    await until(lambda: setup.gateway.report().waiting == {"tuned": 3})
    setup.push(variants=setup.routes(tuned=VariantRoute("tuned", (setup.addresses[2],))))
    for status, headers, _ in await asyncio.gather(*waiting):
        assert (status, headers["X-Raymill-Variant"], headers["X-Raymill-Assignment"]) == (200, "tuned", "sticky")
    assert setup.gateway.report().waiting == {}


@scenario({"base": 0, "tuned": 1})
async def test_a_variant_that_does_not_wake_is_a_503_and_its_queue_is_bounded(setup):
    sleeping = setup.routes(tuned=VariantRoute("tuned", (), asleep=True))
    setup.push(variants=sleeping, limits={"queue_seconds": 0.1, "max_queued": 2})
    outcomes = await asyncio.gather(*(setup.post(COMPLETION) for _ in range(4)))
    assert [status for status, _, _ in outcomes] == [503] * 4
    assert all(int(headers["Retry-After"]) >= 1 for _, headers, _ in outcomes)
    codes = Counter(json.loads(raw)["error"]["code"] for _, _, raw in outcomes)
    assert codes == {"overloaded": 2, "service_unavailable": 2}


@scenario()
async def test_prompt_variants_add_words_and_defaults_and_keep_what_the_caller_set(setup):
    prompt = PromptConfig(system="Be brief.", template="Q: {prompt}\nA:", sampling={"temperature": 0.1, "top_k": 5})
    setup.push(variants=setup.routes(base=VariantRoute("base", tuple(setup.addresses[:2]), prompt=prompt)))
    await setup.post({**COMPLETION, "temperature": 0.9, "top_k": None})
    await setup.post(CHAT, "/v1/chat/completions")
    completion, chat = sorted(setup.asked, key=lambda body: "messages" in body)
    assert (completion["prompt"], completion["temperature"], completion["top_k"]) == ("Q: hello\nA:", 0.9, 5)
    assert chat["messages"] == [{"role": "system", "content": "Be brief."}, *CHAT["messages"]]
    assert chat["temperature"] == 0.1


@scenario()
async def test_a_shadow_copy_is_measured_and_changes_nothing_for_the_caller(setup):
    setup.push(shadow=ShadowConfig(variant="tuned", share=1.0), rollout=("base", "tuned"))
    for stream in (False, True):
        status, headers, _ = await setup.post({**COMPLETION, "stream": stream})
        assert (status, headers["X-Raymill-Variant"]) == (200, "base")
    copies = setup.gateway.metrics.shadow_requests.values
    await until(lambda: copies.get(("tuned", "200")) == 2)
    assert [body["model"] for body in setup.engines[2].requests] == ["tuned", "tuned"]
    assert len(setup.gateway.report().observations) == 2
    await setup.runners[2].cleanup()  # a candidate that is gone, or hangs, is nobody's trouble
    assert (await setup.post(COMPLETION))[0] == 200
    await until(lambda: copies.get(("tuned", "lost")) == 1)


@scenario()
async def test_a_late_shadow_copy_does_not_take_an_engine_from_its_callers(setup):
    shared = (setup.addresses[0],)
    routes = {"base": VariantRoute("base", shared), "tuned": VariantRoute("tuned", shared)}
    setup.push(variants=routes, shadow=ShadowConfig(variant="tuned", share=1.0), limits={"try_seconds": 0.1})
    ejections, copies = setup.gateway.metrics.ejections.values, setup.gateway.metrics.shadow_requests.values
    call = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang", "stream": True}))
    await until(lambda: copies.get(("tuned", "timeout")) == 1)
    assert (await call)[0] == 504
    assert (await setup.post(COMPLETION))[0] == 200
    assert not ejections and not setup.gateway.engines.pool.ejected


@scenario()
async def test_shadow_copies_are_bounded(setup):
    setup.push(shadow=ShadowConfig(variant="tuned", share=1.0, max_ongoing=2))
    calls = [asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"})) for _ in range(5)]
    await until(lambda: len(setup.asked) == 7)
    assert len(setup.engines[2].requests) == 2
    assert setup.gateway.metrics.shadow_requests.values["tuned", "skipped"] == 3
    for call in calls:
        call.cancel()


@scenario()
async def test_an_engine_that_is_slow_to_begin_is_left_for_another_one(setup):
    for handler in (hang, half):
        address = await setup.serve(engine_like(handler, 200))
        setup.push(
            variants=setup.routes(base=VariantRoute("base", (address, setup.addresses[0]))), limits={"try_seconds": 0.1}
        )
        outcomes = [await setup.post({**COMPLETION, "stream": True}) for _ in range(3)]
        assert [status for status, _, _ in outcomes] == [200] * 3
        assert setup.gateway.engines.pool.ejected == set()  # it answers its health check: slow is not gone


@scenario()
async def test_an_answer_in_one_piece_may_take_longer_than_a_try(setup):
    setup.push(limits={"try_seconds": 0.1})
    assert (await setup.post({**COMPLETION, "prompt": "slow"}))[0] == 200  # half a second
    assert len(setup.asked) == 1 and not setup.gateway.metrics.retries.values
    setup.push(limits={"answer_seconds": 0.3})
    assert (await setup.problem(504, {**COMPLETION, "prompt": "slow"}))["code"] == "timeout"
    assert len(setup.asked) == 2


@scenario()
async def test_an_engine_that_is_well_but_moves_nothing_is_left_for_another_one(setup):
    address = await setup.serve(engine_like(hang, 200))
    routes = setup.routes(base=VariantRoute("base", (address, setup.addresses[0])))
    setup.push(variants=routes, limits={"try_seconds": 0.2, "answer_seconds": 5.0})
    assert [(await setup.post({**COMPLETION, "prompt": "slow"}))[0] for _ in range(3)] == [200] * 3
    assert setup.gateway.metrics.retries.values


@scenario()
async def test_an_engine_that_is_late_and_unwell_is_left_for_another_one(setup):
    address = await setup.serve(engine_like(hang, 500))
    routes = setup.routes(base=VariantRoute("base", (address, setup.addresses[0])))
    setup.push(variants=routes, limits={"try_seconds": 0.1})
    assert [(await setup.post(COMPLETION))[0] for _ in range(2)] == [200] * 2
    await until(lambda: setup.gateway.engines.pool.ejected == {address})


@scenario(fallback=False)
async def test_where_every_engine_is_late_the_caller_hears_of_the_time(setup):
    setup.push(limits={"try_seconds": 0.1})
    error = await setup.problem(504, {**COMPLETION, "prompt": "hang", "stream": True})
    assert error["code"] == "timeout" and "0.1 s" in error["message"] and len(setup.asked) == 2


@scenario()
async def test_an_answer_that_takes_too_long_ends_with_an_explanation(setup):
    setup.push(limits={"answer_seconds": 0.2})
    assert (await setup.problem(504, {**COMPLETION, "prompt": "hang"}))["code"] == "timeout"
    status, _, raw = await setup.post({**COMPLETION, "prompt": "stall", "stream": True})
    events = [event for event in raw.split(b"\n\n") if event]
    assert status == 200 and b"longer than" in events[-1] and b"stream_interrupted" in events[-1]
    await until(lambda: sum(engine.cancelled for engine in setup.engines) == 2)


@scenario()
async def test_an_engine_without_the_variants_model_is_left_for_one_that_has_it(setup):
    status, headers, _ = await setup.post({**COMPLETION, "prompt": "no-model"})
    assert status == 503 and headers["X-Raymill-Variant"] == "base"


@scenario()
async def test_what_the_engine_does_not_have_is_its_own_error_in_shape(setup):
    error = await setup.problem(404, {"model": "demo", "input": "x"}, "/v1/embeddings")
    assert "Not Found" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_generation(stream):
    @scenario()
    async def run(setup):
        body = {**COMPLETION, "prompt": "stall" if stream else "hang", "stream": stream}
        call = asyncio.create_task(setup.post(body))
        await until(lambda: setup.asked)
        call.cancel()
        await until(lambda: sum(engine.cancelled for engine in setup.engines) == 1)
        await until(lambda: setup.gateway.metrics.requests.values)
        assert setup.gateway.metrics.requests.values == {("base", "/v1/completions", "499"): 1}
        assert not setup.gateway.engines.pool.ongoing and not setup.gateway.places.ongoing

    run()


@scenario()
async def test_draining_lets_streams_finish_and_takes_nobody_new(setup):
    for engine in setup.engines:
        engine.go_on = asyncio.Event()
    call = asyncio.create_task(setup.post({**COMPLETION, "prompt": "step", "stream": True}))
    await until(lambda: setup.asked)
    idle = await asyncio.open_connection("127.0.0.1", setup.port)
    drain = asyncio.create_task(setup.gateway.drain(10))
    await asyncio.sleep(0.05)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", setup.port)
    idle[1].write(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(idle[0].read(), 5)
    assert answer.startswith(b"HTTP/1.1 503") and b"Connection: close" in answer
    while not call.done():
        for engine in setup.engines:
            engine.go_on.set()
        await asyncio.sleep(0.02)
    status, _, raw = await call
    assert status == 200 and raw.endswith(b"data: [DONE]\n\n")
    await drain


@scenario()
async def test_requests_that_come_while_draining_are_answered_too(setup):
    first = asyncio.create_task(setup.post({**COMPLETION, "prompt": "slow"}))
    await until(lambda: setup.asked)
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    (server, _), _ = setup.gateway._servers
    await until(lambda: len(server.connections) == 2)
    drain = asyncio.create_task(setup.gateway.drain(10))
    await asyncio.sleep(0.2)
    body = json.dumps({**COMPLETION, "prompt": "slow"}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    late = await asyncio.wait_for(reader.read(), 5)
    assert late.startswith(b"HTTP/1.1 200") and b'"choices"' in late
    assert (await first)[0] == 200
    await drain
    writer.close()


@scenario()
async def test_what_does_not_finish_in_time_is_told_so(setup):
    stream = asyncio.create_task(setup.post({**COMPLETION, "prompt": "stall", "stream": True}))
    whole = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"}))
    await until(lambda: len(setup.asked) == 2)
    await setup.gateway.drain(0.1)
    status, _, raw = await stream
    assert status == 200 and b"stream_interrupted" in raw and raw.endswith(b"\n\n")
    status, headers, raw = await whole
    assert status == 503 and headers["Retry-After"]
