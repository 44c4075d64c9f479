"""The description of the public surface is true: schemathesis asks a live gateway for everything it says."""

import asyncio
import importlib.util
import threading
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from serving.access.keys import ApiKey, KeyLimits, hash_secret
from serving.gateway import openapi

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)


def key(name, scopes=("call",), **more):
    """A key whose secret is its name."""
    return ApiKey(id=name, name=name, sha256=hash_secret(name), scopes=scopes, created_at=0, created_by="test", **more)


KEYS = (
    key("good", scopes=("call", "admin")),
    key("tight", limits=KeyLimits(requests_per_minute=1)),
    key("elsewhere", models=("other",)),
)


class Weights:
    """Takes any weights."""

    def status(self):
        return {}

    def set_weights(self, weights, by, reason):
        return {"weights": weights}


@pytest.fixture(scope="module")
def live():
    """A gateway with keys, on a thread of its own; its engines check bodies as vLLM does."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    setup = harness.Setup(admin=Weights())
    setup.embeds = True

    async def start():
        await setup.start({"base": 1, "tuned": 1}, require_keys=True, keys=KEYS)
        for engine in setup.engines:
            engine.schemas = openapi.request_schemas(setup.table.limits)
        ready.set()

    def run():
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield setup
    asyncio.run_coroutine_threadsafe(setup.close(), loop).result(15)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def examples(live, mode, count, derandomize=True):
    """Calls a check with cases of every operation; those without input have no invalid ones."""

    def run(check):
        schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
        paths = []
        for operation in (each.ok() for each in schema.get_all_operations()):
            if mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET":
                continue
            paths.append(operation.path)
            bounded = settings(
                max_examples=count,
                derandomize=derandomize,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
        assert len(paths) >= 5

    return run


def obeys(case):
    case.call_and_validate(headers={"Authorization": "Bearer good"}, excluded_checks=[ignored_auth])


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_gateway_does_what_its_description_says(live, mode):
    examples(live, mode, 30)(obeys)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_gateway_does_what_its_description_says_whatever_is_asked(live, mode):
    examples(live, mode, 1000, derandomize=False)(obeys)


def test_without_a_key_nothing_but_health_answers(live):
    def check(case):
        public = case.path in ("/health", "/ready", "/-/healthz", "/metrics", "/openapi.json")
        assert case.call().status_code == (200 if public else 401)

    examples(live, GenerationMode.POSITIVE, 2)(check)


def test_what_a_keys_limits_and_models_refuse_is_described(live):
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    body = {"metric": "solved", "value": 1, "user": "u"}
    case = schema["/v1/feedback"]["POST"].Case(body=body, media_type="application/json")
    not_these = [ignored_auth, positive_data_acceptance]
    for name, status in (("tight", 200), ("tight", 429), ("elsewhere", 403)):
        reply = case.call_and_validate(headers={"Authorization": f"Bearer {name}"}, excluded_checks=not_these)
        assert reply.status_code == status


def test_the_fields_that_engines_check_are_those_of_the_document():
    document = openapi.description(None)
    for path, schema in openapi.request_schemas(openapi.LimitsConfig()).items():
        reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        described = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert described["properties"] == {**schema["properties"], "model": {"const": "model"}}
