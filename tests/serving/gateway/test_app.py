"""The gateway over real connections, with engines that do no inference: bytes, headers, errors, retries, weights."""

import asyncio
import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from serving.gateway import wire
from serving.gateway.table import VariantRoute

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario, until, COMPLETION, BASE_ONLY = harness.scenario, harness.until, harness.COMPLETION, harness.BASE_ONLY
PIECES = harness.fake_engine.PIECES


@scenario(BASE_ONLY)
async def test_the_engine_gets_its_own_model_name_and_the_rest_untouched(setup):
    body = {**COMPLETION, "session": "s", "temperature": 0.5, "stop": ["é", "\u2028"], "extra": {"deep": [1, None]}}
    status, headers, raw = await setup.post(body, headers={"X-Request-Id": "my-id.1", "Authorization": "Bearer mine"})
    assert status == 200
    assert (json.loads(raw)["model"], json.loads(raw)["asked"]) == ("demo", "base")
    assert headers["X-Request-Id"] == "my-id.1"
    assert headers["X-Raymill-Variant"] == "base"
    assert headers["X-Raymill-Assignment"] == "sticky"
    (got,) = [request for engine in setup.engines for request in engine.requests]
    expected = {**body, "model": "base"}
    del expected["session"]
    assert got == expected


@scenario(BASE_ONLY)
async def test_a_stream_passes_piece_by_piece_as_the_engine_sends_it(setup):
    for engine in setup.engines:
        engine.go_on = asyncio.Event()
    body = {**COMPLETION, "prompt": "step", "stream": True}
    async with setup.session.post(setup.url + "/v1/completions", json=body) as reply:
        assert reply.content_type == "text/event-stream"
        assert reply.headers["X-Raymill-Variant"] == "base"
        busy = next(engine for engine in setup.engines if engine.requests)
        for index in range(PIECES):
            # The engine waits: only what it has sent can be here, and it must be here.
            piece = await asyncio.wait_for(reply.content.readany(), 5)
            assert piece.startswith(b"data: {") and piece.endswith(b"\n\n") and f'"{index} "'.encode() in piece
            assert b'"model":"demo"' in piece
            busy.go_on.set()
        rest = await reply.content.read()
    assert rest == b"data: [DONE]\n\n"


@scenario({"base": 50, "tuned": 50})
async def test_the_key_comes_from_the_header_then_the_body_and_without_one_the_request_is_flagged(setup):
    expected = {key: setup.table.allocation.assign("demo", key).variant for key in ("u1", "u2", "u3", "u4", "u5")}
    assert set(expected.values()) == {"base", "tuned"}
    for key, variant in expected.items():
        other = "u1" if expected["u1"] != variant else next(k for k in expected if expected[k] != variant)
        for body, headers in [
            ({"user": key}, {}),
            ({"session": key}, {}),
            ({"user": other}, {"X-User-Id": key}),
            ({}, {"X-Session-Id": key}),
        ]:
            for _ in range(2):
                _, answer, _ = await setup.post({"prompt": "x", **body}, headers=headers)
                assert (answer["X-Raymill-Variant"], answer["X-Raymill-Assignment"]) == (variant, "sticky")
    _, answer, _ = await setup.post({"prompt": "x"})
    assert answer["X-Raymill-Assignment"] == "random"


@scenario(BASE_ONLY)
async def test_errors_have_openais_shape(setup):
    async def problem(status, body, path="/v1/completions", headers=None):
        got, answer_headers, raw = await setup.post(body, path, headers)
        error = json.loads(raw)["error"]
        assert got == status, raw
        assert set(error) == {"message", "type", "param", "code"}
        assert answer_headers["Content-Type"].startswith("application/json")
        return error

    assert (await problem(400, b"{not json"))["code"] == "invalid_json"
    assert (await problem(400, b"[1]"))["code"] == "invalid_json"
    assert (await problem(400, b"\xff\xfe"))["code"] == "invalid_json"
    assert (await problem(400, b"[" * 200_000))["code"] == "invalid_json"
    assert (await problem(404, {"model": "gpt-9", "prompt": "x"}))["code"] == "model_not_found"
    assert (await problem(400, {"user": "u" * 1000, "prompt": "x"}))["param"] == "user"
    both = {"user": "u", "session": "s" * 1000, "prompt": "x"}
    assert (await problem(400, both))["param"] == "session"  # also where another one is used
    assert (await problem(400, {"session": 5, "prompt": "x"}))["param"] == "session"
    assert (await problem(404, {}, "/v1/nothing"))["code"] == "not_found"
    assert (await problem(413, b"x" * (setup.table.limits.max_body_bytes + 1)))["code"] == "request_too_large"
    await problem(405, {}, "/v1/models")
    # An engine's own errors come through as they are.
    status, _, raw = await setup.post({"prompt": "fail", "user": "u"})
    assert (status, json.loads(raw)["error"]["message"]) == (500, "engine trouble")
    # A header that would split the answer's headers is replaced.
    _, headers, _ = await setup.post(COMPLETION, headers={"X-Request-Id": "a b; c"})
    assert headers["X-Request-Id"] != "a b; c" and len(headers["X-Request-Id"]) == 32


@scenario(BASE_ONLY)
async def test_an_engine_that_is_gone_is_replaced_by_another_and_leaves_the_rotation_at_once(setup):
    await setup.runners[0].cleanup()
    statuses = [(await setup.post({**COMPLETION, "user": f"u{i}"}))[0] for i in range(10)]
    assert statuses == [200] * 10
    assert setup.gateway.engines.pool.ejected == {setup.addresses[0]}
    _, page = await setup.get("/metrics")
    assert b'raymill_request_retries_total{variant="base"} 1\n' in page
    assert b"raymill_engine_ejections_total 1\n" in page


@scenario({"base": 0, "tuned": 1}, fallback=False)
async def test_without_another_engine_the_answer_is_a_clean_503(setup):
    status, headers, raw = await setup.post({**COMPLETION, "prompt": "die"})
    assert status == 503
    assert json.loads(raw)["error"]["code"] == "service_unavailable"
    assert headers["Retry-After"] == "1"
    assert headers["X-Raymill-Variant"] == "tuned"
    status, raw = await setup.get("/ready")
    assert status == 503 and b"tuned" in raw
    assert (await setup.get("/-/healthz"))[0] == 503
    assert (await setup.get("/health"))[0] == 200


@scenario(fallback=False)
async def test_a_request_that_engines_die_of_takes_two_with_it_and_spares_the_rest(setup):
    for stream in (False, True):
        setup.push(variants={"base": VariantRoute("base", tuple(setup.addresses))})
        status, _, _ = await setup.post({**COMPLETION, "prompt": "die", "stream": stream})
        assert status == 503
        assert len(setup.asked) == 2
        for engine in setup.engines:
            engine.requests.clear()
        setup.addresses = []
        for name in ("a", "b", "c"):
            await setup.add_engine(name)


@scenario(BASE_ONLY)
async def test_an_engine_that_reports_trouble_is_tried_elsewhere(setup):
    async def healthy(request):
        return web.json_response({"choices": []})

    app = web.Application()
    app.router.add_post("/v1/completions", healthy)
    app.router.add_get("/health", healthy)
    other = await setup.serve(app)
    setup.push(variants={"base": VariantRoute("base", (setup.addresses[0], other))})
    statuses = [(await setup.post({**COMPLETION, "prompt": "fail"}))[0] for _ in range(6)]
    assert statuses == [200] * 6


@scenario(BASE_ONLY)
async def test_a_stream_that_breaks_ends_with_an_error_event(setup):
    status, _, raw = await setup.post({**COMPLETION, "prompt": "die-midway", "stream": True})
    events = [event for event in raw.split(b"\n\n") if event]
    assert status == 200
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "stream_interrupted"
    assert len(events) == 3 and b"[DONE]" not in raw


@scenario(BASE_ONLY)
async def test_an_ejected_engine_that_answers_again_is_used_again(setup):
    setup.gateway.engines.pool.eject(setup.addresses[0])
    await harness.until(lambda: not setup.gateway.engines.pool.ejected)


@scenario(BASE_ONLY)
async def test_a_client_that_leaves_cancels_the_engines_work_and_ejects_nobody(setup):
    call = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"}))
    await harness.until(lambda: setup.asked)
    call.cancel()
    await harness.until(lambda: sum(engine.cancelled for engine in setup.engines))
    assert sum(engine.cancelled for engine in setup.engines) == 1
    assert not setup.gateway.engines.pool.ejected


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"data: {}\n\ndata: [DONE]\n\n"], "200"),
        ([b"data: {}\n\n", b"data: [DO", b"NE]\n\n"], "200"),
        ([b"data: {}\n\ndata: [DONE]", b"\n\n"], "200"),
        ([b"data: {}\n\n"], "499"),
        ([b'data: {"text": "data: [DONE]"}\n\n'], "499"),
    ],
)
def test_a_client_that_hangs_up_counts_as_answered_once_it_has_the_last_event(pieces, status):
    @scenario(BASE_ONLY)
    async def run(setup):
        async def stream(request):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for piece in pieces:
                await response.write(piece)
                await asyncio.sleep(0.02)
            await asyncio.sleep(30)  # the connection stays open: only the client can end it
            return response

        app = web.Application()
        app.router.add_post("/v1/completions", stream)
        setup.push(variants={"base": VariantRoute("base", (await setup.serve(app),))})
        async with setup.session.post(setup.url + "/v1/completions", json={**COMPLETION, "stream": True}) as reply:
            whole = b"".join(pieces)
            assert await asyncio.wait_for(reply.content.readexactly(len(whole)), 5) == whole
            reply.close()
        counts = setup.gateway.metrics.requests.values
        await until(lambda: counts)
        assert counts == {("base", "/v1/completions", status): 1}

    run()


@scenario(BASE_ONLY)
async def test_weights_change_under_load_without_a_failed_request(setup):
    results = []

    async def client(index):
        for turn in range(40):
            stream = turn % 2 == 0
            status, headers, raw = await setup.post({"prompt": "x", "user": f"u{index}", "stream": stream})
            whole = raw.endswith(b"data: [DONE]\n\n") if stream else b"choices" in raw
            results.append((status, whole, headers["X-Raymill-Variant"]))

    async def change():
        for weights in [{"base": 1, "tuned": 1}, {"base": 1, "tuned": 9}, {"base": 0, "tuned": 1}]:
            await asyncio.sleep(0.05)
            setup.push(allocation=setup.table.allocation.reweighted(weights))

    await asyncio.gather(change(), *(client(index) for index in range(8)))
    assert [result for result in results if result[:2] != (200, True)] == []
    assert set(Counter(variant for *_, variant in results)) == {"base", "tuned"}
    _, headers, _ = await setup.post(COMPLETION)
    assert headers["X-Raymill-Variant"] == "tuned"


@scenario(BASE_ONLY)
async def test_an_older_table_that_arrives_late_is_ignored(setup):
    setup.gateway.update(replace(setup.table, serial=0, model="old"))
    assert setup.gateway.routes.model == "demo"


@scenario(BASE_ONLY)
async def test_models_lists_the_public_name(setup):
    status, raw = await setup.get("/v1/models")
    assert status == 200
    assert [each["id"] for each in json.loads(raw)["data"]] == ["demo"]
    assert (await setup.get("/v1/models/demo"))[0] == 200
    assert (await setup.get("/v1/models/nope"))[0] == 404


@scenario()
async def test_before_it_is_told_anything_the_gateway_says_that_it_starts(setup):
    fresh = harness.Gateway()
    setup.url = f"http://127.0.0.1:{await fresh.listen(harness.bound_socket())}"
    try:
        for path in ("/ready", "/v1/models", "/-/healthz"):
            assert (await setup.get(path))[0] == 503
        assert (await setup.post(COMPLETION))[0] == 503
        assert (await setup.get("/health"))[0] == 200
        assert fresh.report().version == -1
    finally:
        await fresh.close()


@scenario()
async def test_kubernetes_finds_the_word_that_it_looks_for(setup):
    """KubeRay's probe of a worker is `wget … http://localhost:8000/-/healthz | grep success`."""
    status, raw = await setup.get("/-/healthz")
    assert (status, raw) == (200, b"success")


@scenario({"base": 1, "tuned": 1})
async def test_the_metrics_page_tells_of_every_variant(setup):
    for stream in (False, True):
        for user in ("u1", "u2", "u3", "u4", "u5", "u6"):
            await setup.post({"prompt": "paced", "user": user, "stream": stream})
    await setup.post({"prompt": "x", "n": 99})
    setup.gateway.engines.pool.eject(setup.addresses[0])
    samples = await setup.samples()
    for variant in ("base", "tuned"):
        assert samples[f'raymill_variant_share{{variant="{variant}"}}'] == 0.5
        whole = samples[f'raymill_requests_total{{variant="{variant}",path="/v1/completions",status="200"}}']
        assert whole == 2 * samples[f'raymill_time_to_first_token_seconds_count{{variant="{variant}"}}']
        assert whole == 2 * samples[f'raymill_time_per_token_seconds_count{{variant="{variant}"}}']
        assert whole == samples[f'raymill_request_seconds_count{{variant="{variant}",path="/v1/completions"}}']
    assert samples['raymill_requests_refused_total{reason="too_many_choices"}'] == 1
    assert samples['raymill_engines{variant="base",state="out_of_rotation"}'] == 1
    assert samples['raymill_limit{limit="max_ongoing"}'] == 256
    assert samples["raymill_table_version"] == 0 and samples["raymill_requests_ongoing"] == 0


@scenario()
async def test_a_variant_without_a_route_is_unavailable_and_no_failure_of_the_gateway(setup):
    setup.push(variants={"tuned": setup.table.variants["tuned"]}, fallback=False)
    await setup.problem(503, COMPLETION)
    setup.push(fallback=True)
    assert (await setup.post(COMPLETION))[1]["X-Raymill-Assignment"] == "fallback"


def test_an_engines_usage_is_found_without_reading_its_json():
    text = json.dumps('"usage":{"completion_tokens":9}')
    said = f'{{"choices":[{{"text":{text}}}],"usage": {{"prompt_tokens":3,"completion_tokens":5}}}}'
    assert wire.usage(said.encode()) == (3, 5)
    assert wire.usage(b'{"choices":[],"usage":null}') is None
    long = b'{"usage":{"prompt_tokens":1,"completion_tokens":2},"choices":["' + b"x" * 5000 + b'"]}'
    assert wire.usage(long) == (1, 2)
