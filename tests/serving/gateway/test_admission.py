"""Keys, scopes, models, rates, and what one request may ask for: over real connections."""

import asyncio
import importlib.util
import json
import time
from pathlib import Path

from serving.access.keys import ApiKey, KeyLimits, hash_secret
from serving.config import PromptConfig, ShadowConfig
from serving.gateway.observation import KeyUse, OthersUse

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario, COMPLETION = harness.scenario, harness.COMPLETION


def key(name, scopes=("call",), models=(), revoked_at=None, **limits):
    return ApiKey(
        id=f"k-{name}",
        name=name,
        sha256=hash_secret(f"rmk-{name}"),
        scopes=scopes,
        limits=KeyLimits(**limits),
        models=models,
        created_at=0,
        created_by="test",
        revoked_at=revoked_at,
    )


def bearer(name):
    return {"Authorization": f"Bearer rmk-{name}"}


KEYS = (
    key("ann"),
    key("gone", revoked_at=1.0),
    key("root", scopes=("admin",)),
    key("other", models=("gpt-9",)),
    key("two", requests_per_minute=2),
    key("few", tokens_per_minute=100),
    key("one", concurrency=1),
)


@scenario(require_keys=True, keys=KEYS)
async def test_a_call_needs_a_good_key(setup):
    assert (await setup.post(COMPLETION, headers=bearer("ann")))[0] == 200
    for headers in ({}, bearer("nobody"), bearer("gone"), {"Authorization": "Basic rmk-ann"}, {"Authorization": "x"}):
        assert (await setup.problem(401, COMPLETION, headers=headers))["code"] == "invalid_api_key"
    for path in ("/v1/models", "/v1/models/demo"):
        assert (await setup.get(path))[0] == 401
        assert (await setup.get(path, bearer("ann")))[0] == 200
    assert await setup.problem(401, {"user": "u", "metric": "m", "value": 1}, "/v1/feedback")
    _, headers, _ = await setup.call("POST", "/v1/completions", COMPLETION)
    assert headers["WWW-Authenticate"].startswith("Bearer")
    for path in ("/health", "/ready", "/metrics", "/openapi.json"):
        assert (await setup.get(path))[0] == 200
    assert len(setup.asked) == 1


@scenario(keys=KEYS)
async def test_where_no_key_is_needed_a_strange_one_does_no_harm(setup):
    assert (await setup.post(COMPLETION))[0] == 200
    assert (await setup.post(COMPLETION, headers={"Authorization": "Bearer sk-from-elsewhere"}))[0] == 200
    await setup.problem(403, COMPLETION, headers=bearer("other"))  # a known one is held to what it may do


@scenario(require_keys=True, keys=KEYS)
async def test_keys_are_neither_passed_on_nor_shown(setup):
    await setup.post(COMPLETION, headers={**bearer("ann"), "Cookie": "secret=1"})
    (got,) = [headers for engine in setup.engines for headers in engine.headers]
    assert got["Authorization"] == f"Bearer {harness.KEY}"
    assert "rmk-ann" not in json.dumps(got) and "Cookie" not in got
    _, page = await setup.get("/metrics")
    assert b"rmk-" not in page and harness.KEY.encode() not in page
    _, raw = await setup.get("/admin/status", bearer("root"))
    assert b"rmk-" not in raw and harness.KEY.encode() not in raw


@scenario(require_keys=True, keys=KEYS)
async def test_a_key_is_held_to_its_models(setup):
    assert (await setup.problem(403, COMPLETION, headers=bearer("other")))["code"] == "model_not_allowed"
    assert (await setup.get("/v1/models", bearer("other")))[0] == 403


@scenario(require_keys=True, keys=KEYS)
async def test_requests_per_minute_end_with_429_and_when_to_try_again(setup):
    for _ in range(2):
        assert (await setup.post(COMPLETION, headers=bearer("two")))[0] == 200
    error = await setup.problem(429, COMPLETION, headers=bearer("two"))
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    _, headers, _ = await setup.post(COMPLETION, headers=bearer("two"))
    assert 1 <= int(headers["Retry-After"]) <= 30
    assert len(setup.asked) == 2
    assert setup.gateway.report().use["k-two"] == KeyUse(requests=2, tokens=4, ongoing=0)


@scenario(require_keys=True, keys=KEYS)
async def test_what_other_gateways_let_through_counts_here(setup):
    setup.gateway.report(OthersUse({"k-two": KeyUse()}, 2))
    setup.gateway.report(OthersUse({"k-two": KeyUse(requests=2)}, 2))
    await setup.problem(429, COMPLETION, headers=bearer("two"))


@scenario(require_keys=True, keys=KEYS)
async def test_tokens_are_reserved_and_settled_with_what_was_really_used(setup):
    limiter = setup.gateway.limiter
    for stream in (False, True):
        body = {**COMPLETION, "max_tokens": 60, "stream": stream}
        status, _, raw = await setup.post(body, headers=bearer("few"))
        assert status == 200
        if stream:  # the gateway asked the engine to count, and the caller does not see that
            assert [body["stream_options"]["include_usage"] for body in setup.asked if "stream_options" in body] == [
                True
            ]
            assert b"usage" not in raw and raw.count(b"data: ") == harness.fake_engine.PIECES + 1
    assert limiter.use()["k-few"] == KeyUse(requests=2, tokens=2 + 3 + harness.fake_engine.PIECES, ongoing=0)
    await setup.problem(429, {**COMPLETION, "max_tokens": 95}, headers=bearer("few"))
    shown = {**COMPLETION, "stream": True, "max_tokens": 5, "stream_options": {"include_usage": True}}
    assert b'"usage":{' in (await setup.post(shown, headers=bearer("few")))[2]
    assert setup.gateway.metrics.tokens.values["base", "completion"] == 1 + 2 * harness.fake_engine.PIECES


@scenario(require_keys=True, keys=KEYS)
async def test_a_failed_request_gives_its_reservation_back(setup):
    for _ in range(5):
        await setup.problem(500, {**COMPLETION, "prompt": "fail", "max_tokens": 60}, headers=bearer("few"))
    assert setup.gateway.limiter.use()["k-few"].tokens == 0


@scenario(require_keys=True, keys=(key("few", tokens_per_minute=1000),))
async def test_hanging_up_is_not_free(setup):
    async def used(prompt, stream, until):
        before = setup.gateway.limiter.use()["k-few"].tokens
        body = {**COMPLETION, "prompt": prompt, "stream": stream, "max_tokens": 200, "pad": "x" * 400}
        call = asyncio.create_task(setup.post(body, headers=bearer("few")))
        await harness.until(until)
        call.cancel()
        await harness.until(lambda: not setup.gateway.limiter.use()["k-few"].ongoing)
        return setup.gateway.limiter.use()["k-few"].tokens - before

    assert 300 <= await used("hang", False, lambda: len(setup.asked) == 1) <= 350  # the prompt and all it asked for
    assert 100 <= await used("hang", True, lambda: len(setup.asked) == 2) <= 150  # the prompt
    setup.push(limits={"max_ongoing": 1})
    holding = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"}, headers=bearer("few")))
    await harness.until(lambda: len(setup.asked) == 3)
    before = setup.gateway.limiter.use()["k-few"].tokens
    call = asyncio.create_task(setup.post({**COMPLETION, "max_tokens": 200}, headers=bearer("few")))
    await harness.until(lambda: setup.gateway.places.waiting)
    call.cancel()
    await harness.until(lambda: not setup.gateway.places.waiting)
    assert setup.gateway.limiter.use()["k-few"].tokens == before  # no engine has seen it
    holding.cancel()


@scenario(require_keys=True, keys=KEYS)
async def test_one_request_at_a_time_means_one(setup):
    slow = asyncio.create_task(setup.post({**COMPLETION, "prompt": "slow"}, headers=bearer("one")))
    await harness.until(lambda: setup.asked)
    await setup.problem(429, COMPLETION, headers=bearer("one"))
    assert (await slow)[0] == 200
    assert (await setup.post(COMPLETION, headers=bearer("one")))[0] == 200
    gone = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"}, headers=bearer("one")))
    await harness.until(lambda: len(setup.asked) == 3)
    gone.cancel()
    await harness.until(lambda: not setup.gateway.limiter.use()["k-one"].ongoing)
    assert (await setup.post(COMPLETION, headers=bearer("one")))[0] == 200


@scenario(require_keys=True, keys=KEYS)
async def test_a_revoked_key_ends_with_the_next_table(setup):
    setup.push(keys=(key("ann", revoked_at=2.0),))
    await setup.problem(401, COMPLETION, headers=bearer("ann"))


@scenario({"base": 1, "tuned": 0}, keys=KEYS, rollout=("base", "tuned"))
async def test_an_override_is_for_admin_keys_and_is_not_counted(setup):
    override = {"X-Raymill-Override": "tuned"}
    await setup.problem(401, COMPLETION, headers=override)
    await setup.problem(403, COMPLETION, headers={**override, **bearer("ann")})
    status, headers, _ = await setup.post(COMPLETION, headers={**override, **bearer("root")})
    assert (status, headers["X-Raymill-Variant"], headers["X-Raymill-Assignment"]) == (200, "tuned", "override")
    assert setup.gateway.report().observations == ()
    for name in ("nobody", "", "x\ty"):
        await setup.problem(404, COMPLETION, headers={"X-Raymill-Override": name, **bearer("root")})
    setup.push(variants=setup.routes(tuned=harness.VariantRoute("tuned", ())))
    await setup.problem(503, COMPLETION, headers={**override, **bearer("root")})  # nobody else in its place


@scenario()
async def test_a_request_is_held_to_the_limits(setup):
    setup.push(limits={"max_tokens": 50, "max_choices": 4})
    for body in ({"max_tokens": 51}, {"max_completion_tokens": 51}):
        assert (await setup.problem(400, {**COMPLETION, **body}))["code"] == "max_tokens_too_large"
    for body in ({"n": 5}, {"best_of": 5}):
        assert (await setup.problem(400, {**COMPLETION, **body}))["code"] == "too_many_choices"
    for body in (
        {"n": "2"},
        {"max_tokens": "9999"},
        {"max_tokens": 1e10},
        {"n": 1.5},
        {"n": True},
        {"n": [1]},
        {"n": 10**30},
    ):
        assert (await setup.problem(400, {**COMPLETION, **body}))["code"] == "invalid_type"
    assert setup.asked == []
    chat = {"model": "demo", "messages": [{"role": "user", "content": "x"}]}
    for body in ({**COMPLETION, "max_tokens": 50, "n": 4}, {**COMPLETION, "n": None, "max_tokens": None}):
        assert (await setup.post(body))[0] == 200
    assert (await setup.post(chat, "/v1/chat/completions"))[0] == 200
    assert [body.get("max_tokens") for engine in setup.engines for body in engine.requests].count(50) == 2


CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "user": "u1"}
LONG = {"max_tokens": 5000, "n": 4}


def prompted(setup, address, **sampling):
    """A variant whose prompt brings sampling defaults."""
    return harness.VariantRoute("v", (address,), prompt=PromptConfig(sampling=sampling))


@scenario()
async def test_a_variants_max_tokens_are_not_replaced_by_the_limit(setup):
    setup.push(variants=setup.routes(base=prompted(setup, setup.addresses[0], max_tokens=64)))
    setup.push(limits={"max_tokens": 1024})
    for body in (CHAT, {**CHAT, "max_tokens": None}, {**CHAT, "max_tokens": 900}, {**CHAT, "max_completion_tokens": 7}):
        assert (await setup.post(body, "/v1/chat/completions"))[0] == 200
    got = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in setup.asked]
    assert got == [(64, None), (64, None), (900, None), (None, 7)]
    over = {**CHAT, "max_tokens": 1025}
    assert (await setup.problem(400, over, "/v1/chat/completions"))["code"] == "max_tokens_too_large"
    assert (await setup.problem(400, {**CHAT, "n": 17}, "/v1/chat/completions"))["code"] == "too_many_choices"
    assert len(setup.asked) == 4
    assert setup.gateway.metrics.assignments.values == {("base", "sticky"): 4}  # those refused are not counted


@scenario(require_keys=True, keys=(key("few", tokens_per_minute=1000),))
async def test_a_variants_defaults_are_held_to_the_limits_and_reserved(setup):
    setup.push(variants=setup.routes(base=prompted(setup, setup.addresses[0], **LONG)))
    setup.push(limits={"max_tokens": 100, "max_choices": 3})
    call = asyncio.create_task(setup.post({**COMPLETION, "prompt": "slow"}, headers=bearer("few")))
    await harness.until(lambda: setup.asked)
    assert [(body["max_tokens"], body["n"]) for body in setup.asked] == [(100, 3)]
    assert 300 <= setup.gateway.limiter.use()["k-few"].tokens <= 330
    assert (await call)[0] == 200
    assert (await setup.post({**COMPLETION, "max_tokens": 20, "n": 1}, headers=bearer("few")))[0] == 200
    assert (setup.asked[-1]["max_tokens"], setup.asked[-1]["n"]) == (20, 1)
    await setup.problem(400, {**COMPLETION, "max_tokens": 101}, headers=bearer("few"))


@scenario()
async def test_a_variant_that_stands_in_fills_what_the_caller_left_out_within_the_limits(setup):
    gone = prompted(setup, "http://127.0.0.1:9", max_tokens=8, top_k=3)
    setup.push(variants={"base": gone, "tuned": prompted(setup, setup.addresses[2], **LONG)})
    setup.push(limits={"max_tokens": 100, "max_choices": 3})
    for body in (CHAT, {**CHAT, "max_tokens": 20}):
        _, headers, _ = await setup.post(body, "/v1/chat/completions")
        assert headers["X-Raymill-Assignment"] == "fallback"
    got = [(body["max_tokens"], body["n"], body.get("top_k")) for body in setup.asked]
    assert got == [(100, 3, None), (20, 3, None)]


@scenario()
async def test_a_shadow_copy_is_held_to_the_limits(setup):
    setup.push(variants=setup.routes(tuned=prompted(setup, setup.addresses[2], **LONG)))
    setup.push(shadow=ShadowConfig(variant="tuned", share=1.0), limits={"max_tokens": 100, "max_choices": 3})
    assert (await setup.post(CHAT, "/v1/chat/completions"))[0] == 200
    await harness.until(lambda: setup.engines[2].requests)
    assert [(body["max_tokens"], body.get("n")) for body in setup.asked] == [(100, None), (100, 3)]


FEEDBACK = {"user": "u", "metric": "solved", "value": 1}


@scenario(require_keys=True, keys=KEYS)
async def test_feedback_counts_against_its_keys_limits(setup):
    feedback, calls = "/v1/feedback", bearer("two")
    await setup.problem(400, {**FEEDBACK, "value": "much"}, feedback, calls)  # what is refused costs nothing
    assert (await setup.post(FEEDBACK, feedback, calls))[0] == 200
    assert (await setup.post(COMPLETION, headers=calls))[0] == 200
    error = await setup.problem(429, FEEDBACK, feedback, calls)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    _, headers, _ = await setup.post(FEEDBACK, feedback, calls)
    assert 1 <= int(headers["Retry-After"]) <= 30
    report = setup.gateway.report()
    assert len(report.feedback) == 1
    assert report.use["k-two"] == KeyUse(requests=2, tokens=2, ongoing=0)
    for _ in range(2):  # one after the other is one at a time
        assert (await setup.post(FEEDBACK, feedback, bearer("one")))[0] == 200


@scenario(keys=KEYS)
async def test_feedback_is_for_the_models_of_a_key(setup):
    error = await setup.problem(403, FEEDBACK, "/v1/feedback", bearer("other"))
    assert (error["type"], error["code"]) == ("permission_error", "model_not_allowed")
    assert setup.gateway.report().feedback == ()
    assert (await setup.post(FEEDBACK, "/v1/feedback"))[0] == 200  # without a key, where none is needed


@scenario()
async def test_places_run_out_into_a_queue_and_the_queue_into_503(setup):
    setup.push(limits={"max_ongoing": 1, "max_queued": 1, "queue_seconds": 0.2})
    hang = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"}))
    await harness.until(lambda: setup.asked)
    began = time.monotonic()
    waiting = asyncio.create_task(setup.post(COMPLETION))
    await harness.until(lambda: setup.gateway.places.waiting)
    assert setup.gateway.report().waiting == {"base": 1}
    status, headers, raw = await setup.post(COMPLETION)
    assert (status, json.loads(raw)["error"]["code"]) == (503, "overloaded") and int(headers["Retry-After"]) >= 1
    status, headers, raw = await waiting
    assert (status, json.loads(raw)["error"]["code"]) == (503, "overloaded") and int(headers["Retry-After"]) >= 1
    assert time.monotonic() - began >= 0.2
    hang.cancel()
    await harness.until(lambda: not setup.gateway.places.ongoing)
    assert (await setup.post(COMPLETION))[0] == 200
    assert not setup.gateway.places.waiting
    assert setup.gateway.report().observations == ()


@scenario()
async def test_waiting_requests_go_on_in_their_order(setup):
    setup.push(limits={"max_ongoing": 1})
    tasks = []
    for index in range(4):
        tasks.append(asyncio.create_task(setup.post({**COMPLETION, "prompt": "slow", "turn": index})))
        await harness.until(lambda index=index: len(setup.asked) + setup.gateway.places.waiting.total() == index + 1)
    tasks[2].cancel()
    assert [(await task)[0] for task in tasks if task is not tasks[2]] == [200] * 3
    assert sorted(body["turn"] for body in setup.asked) == [0, 1, 3]
    assert setup.gateway.places.ongoing == 0
