"""What a rollout learns: exactly the requests that say something about its two variants."""

import asyncio
import importlib.util
import json
import re
from pathlib import Path

import pytest

from serving.gateway import exchange, observe
from serving.gateway.feedback import feedback_of
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.observation import Feedback
from serving.gateway.observe import Observations, unit_of
from serving.gateway.table import VariantRoute
from serving.gateway.wire import ApiError

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario, until, COMPLETION = harness.scenario, harness.until, harness.COMPLETION


@scenario()
async def test_nothing_is_observed_without_a_rollout_or_for_other_variants(setup):
    await setup.post(COMPLETION)
    setup.push(rollout=("tuned", "third"))
    await setup.post(COMPLETION)
    assert setup.gateway.report().observations == ()


@scenario()
async def test_an_answer_is_observed_with_what_the_caller_saw(setup):
    setup.push(rollout=("base", "tuned"), version=41)
    await setup.post(COMPLETION, headers={"X-Request-Id": "r-1"})
    await setup.post({**COMPLETION, "prompt": "paced", "stream": True})
    await setup.post({"prompt": "x"})
    whole, stream, keyless = setup.gateway.report().observations
    assert (whole.unit, whole.keyed, whole.variant, whole.version) == (unit_of("demo", "u1"), True, "base", 41)
    assert whole.request == "r-1" and not whole.error and whole.latency_s > 0
    assert whole.first_token_s is None and whole.token_s is None
    assert stream.unit == whole.unit and 0 < stream.first_token_s <= stream.latency_s and stream.token_s > 0
    assert not keyless.keyed and re.fullmatch("[0-9a-f]{16}", keyless.unit)
    assert setup.gateway.report().observations == ()  # taken away


@scenario()
async def test_errors_are_the_variants_and_refusals_are_nobodys(setup):
    setup.push(rollout=("base", "tuned"), fallback=False)
    await setup.post({**COMPLETION, "prompt": "fail"})
    await setup.post({**COMPLETION, "prompt": "die-midway", "stream": True})
    seen = setup.gateway.report().observations
    assert [(each.error, each.latency_s, each.first_token_s) for each in seen] == [(True, None, None)] * 2
    await setup.post(b"{not json")
    await setup.post({**COMPLETION, "n": 99})
    await setup.post({**COMPLETION, "model": "other"})
    assert setup.gateway.report().observations == ()


@scenario()
async def test_a_request_that_another_engine_saved_counts_with_what_the_caller_saw(setup):
    routes = setup.routes(base=VariantRoute("base", ("http://127.0.0.1:9", setup.addresses[0])))
    setup.push(rollout=("base", "tuned"), variants=routes)
    for _ in range(3):
        await setup.post(COMPLETION)
    seen = setup.gateway.report().observations
    assert sum(each.retried for each in seen) == 1
    assert not any(each.error or each.fallback for each in seen) and all(each.latency_s for each in seen)


async def give_up(setup, body, wait_s=0.0):
    """Ask, and leave when an engine has the request and ``wait_s`` have passed."""
    before = len(setup.asked)
    call = asyncio.create_task(setup.post(body))
    await until(lambda: len(setup.asked) > before)
    await asyncio.sleep(wait_s)
    call.cancel()
    await until(lambda: not setup.gateway.generating._tasks)


@scenario()
async def test_callers_that_give_up_an_answer_that_does_not_begin_are_seen(setup):
    setup.push(rollout=("base", "tuned"))
    for stream in (False, True):
        await give_up(setup, {**COMPLETION, "prompt": "hang", "stream": stream}, 0.1)
    seen = setup.gateway.report().observations
    assert [(each.unit, each.variant, each.gave_up, each.error) for each in seen] == [
        (unit_of("demo", "u1"), "base", True, False)
    ] * 2
    assert all(0.1 <= each.latency_s < 5 for each in seen)
    assert [each.first_token_s for each in seen] == [None, seen[1].latency_s], "only a stream has a first token"
    await give_up(setup, {**COMPLETION, "prompt": "stall", "stream": True}, 0.1)  # had its first event just now
    await setup.post(COMPLETION)
    assert [each.gave_up for each in setup.gateway.report().observations] == [False]


def test_whoever_gives_up_after_a_long_silence_was_failed(monkeypatch):
    monkeypatch.setattr(exchange, "GAVE_UP_IS_ERROR_S", 0.1)

    @scenario()
    async def run(setup):
        setup.push(rollout=("base", "tuned"))
        await give_up(setup, {**COMPLETION, "prompt": "hang"}, 0.15)
        (seen,) = setup.gateway.report().observations
        assert seen.gave_up and seen.error and seen.latency_s >= 0.1
        await give_up(setup, {**COMPLETION, "prompt": "stall", "stream": True}, 0.4)
        (seen,) = setup.gateway.report().observations
        assert seen.gave_up and seen.error and seen.latency_s >= 0.4
        assert 0 < seen.first_token_s < 0.3, "the first token had come, and counts as measured"
        await give_up(setup, {**COMPLETION, "prompt": "flood", "stream": True}, 0.3)  # went on until the caller left
        assert setup.gateway.report().observations == ()

    run()


def test_a_caller_that_does_not_read_its_stream_is_no_fault_of_the_engine(monkeypatch):
    monkeypatch.setattr(exchange, "GAVE_UP_IS_ERROR_S", 0.1)

    @scenario(rollout=("base", "tuned"))
    async def run(setup):
        body = json.dumps({**COMPLETION, "prompt": "flood", "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", setup.port)
        writer.transport.pause_reading()
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        await until(lambda: setup.gateway.places.ongoing)
        (server, _), _ = setup.gateway._servers
        await until(lambda: any(each._paused for each in server.connections))
        await asyncio.sleep(0.3)
        writer.transport.abort()
        await until(lambda: not setup.gateway.generating._tasks)
        assert setup.gateway.report().observations == ()

    run()


@scenario({"base": 0, "tuned": 1}, rollout=("base", "tuned"))
async def test_giving_up_a_variant_that_does_not_wake_is_seen_and_waiting_for_a_place_is_not(setup):
    setup.push(variants=setup.routes(tuned=VariantRoute("tuned", (), asleep=True)))
    call = asyncio.create_task(setup.post(COMPLETION))
    await until(lambda: setup.gateway.places.waiting)
    call.cancel()
    await until(lambda: not setup.gateway.generating._tasks)
    (seen,) = setup.gateway.report().observations
    assert (seen.variant, seen.gave_up, seen.error) == ("tuned", True, False)
    setup.push(variants=setup.routes(tuned=VariantRoute("tuned", (setup.addresses[2],))), limits={"max_ongoing": 1})
    holding = asyncio.create_task(setup.post({**COMPLETION, "prompt": "hang"}))
    await until(lambda: setup.asked)
    call = asyncio.create_task(setup.post(COMPLETION))
    await until(lambda: setup.gateway.places.waiting)
    call.cancel()
    await until(lambda: not setup.gateway.places.waiting)
    assert setup.gateway.report().observations == ()
    holding.cancel()


@scenario(rollout=("base", "tuned"))
async def test_a_fault_of_the_gateway_itself_is_a_500_that_is_written_down(setup):
    async def fail(*_):
        raise RuntimeError("a fault")

    setup.gateway.answering.answer = fail
    assert (await setup.problem(500, COMPLETION))["code"] == "internal_error"
    (seen,) = setup.gateway.report().observations
    assert seen.error and not seen.gave_up and seen.latency_s is None
    assert setup.gateway.metrics.requests.values == {("base", "/v1/completions", "500"): 1}
    assert setup.gateway.metrics.errors.values == {("base", "500"): 1}


def test_units_do_not_tell_the_key():
    assert unit_of("demo", "ann") == unit_of("demo", "ann") != unit_of("other", "ann")
    assert re.fullmatch("[0-9a-f]{16}", unit_of("demo", "\ud800"))
    assert unit_of("demo", None) != unit_of("demo", None)


def test_the_buffer_is_bounded_and_says_what_it_lost(monkeypatch):
    monkeypatch.setattr(observe, "MOST_OBSERVATIONS", 3)
    monkeypatch.setattr(observe, "MOST_FEEDBACK", 2)
    buffer = Observations(GatewayMetrics())
    for index in range(5):
        buffer.add(index)
        buffer.add_feedback(Feedback("m", index, 0.0))
    seen, told = buffer.take()
    assert seen == (2, 3, 4) and [each.value for each in told] == [3, 4] and buffer.dropped == 5


@scenario()
async def test_feedback_reaches_the_report(setup):
    for body in (
        {"user": "u1", "metric": "rating", "value": 0.5},
        {"request_id": "r-1", "metric": "sold", "value": True},
    ):
        assert (await setup.post(body, "/v1/feedback"))[0] == 200
    rating, sold = setup.gateway.report().feedback
    assert (rating.unit, rating.request, rating.metric, rating.value) == (unit_of("demo", "u1"), "", "rating", 0.5)
    assert (sold.unit, sold.request, sold.metric, sold.value) == ("", "r-1", "sold", 1.0)
    assert setup.gateway.report().feedback == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": "u", "metric": "m"},
        {"user": "u", "metric": "m", "value": "1"},
        {"user": "u", "metric": "m", "value": 1e300},
        {"user": "u", "metric": "m", "value": float("inf")},
        {"user": "u", "metric": "", "value": 1},
        {"user": "u", "metric": "m\n", "value": 1},
        {"user": "", "metric": "m", "value": 1},
        {"user": "u" * 999, "metric": "m", "value": 1},
        {"user": 7, "metric": "m", "value": 1},
        {"metric": "m", "value": 1},
        {"user": "u", "request_id": "r", "metric": "m", "value": 1},
        {"request_id": "r\r\nX: y", "metric": "m", "value": 1},
    ],
)
def test_feedback_that_is_none_is_refused(body):
    with pytest.raises(ApiError) as caught:
        feedback_of(body, "demo", 0.0)
    assert caught.value.status == 400
