"""The admin calls: on loopback without a key, on the public port with an admin key only."""

import importlib.util
import json
from pathlib import Path

from cluster.errors import UserError
from serving.access.keys import ApiKey, hash_secret

_spec = importlib.util.spec_from_file_location("harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
scenario = harness.scenario

KEYS = tuple(
    ApiKey(id=f"k-{scope}", name=scope, sha256=hash_secret(scope), scopes=(scope,), created_at=0, created_by="test")
    for scope in ("call", "admin")
)
ADMIN = {"Authorization": "Bearer admin"}


class Calls:
    """Stands for the store."""

    def __init__(self):
        self.asked = []

    def status(self):
        return {"version": 3}

    def set_weights(self, weights, by, reason):
        if set(weights) != {"base", "tuned"}:
            raise UserError("weights must name every variant", where="weights", next_step="name them")
        self.asked.append((weights, by, reason))
        return {"version": 4, "weights": weights}


WEIGHTS = {"weights": {"base": 1, "tuned": 3}, "reason": "try"}


@scenario(keys=KEYS, gateway={"admin": Calls()})
async def test_the_public_port_wants_an_admin_key(setup):
    for path, method, body in [
        ("/admin/status", "GET", None),
        ("/admin/weights", "GET", None),
        ("/admin/weights", "POST", WEIGHTS),
    ]:
        await setup.problem(401, body, path, method=method)
        await setup.problem(401, body, path, {"Authorization": "Bearer nobody"}, method)
        await setup.problem(403, body, path, {"Authorization": "Bearer call"}, method)
        assert (await setup.call(method, path, body, ADMIN))[0] == 200
    assert setup.gateway.admin._calls.asked == [({"base": 1.0, "tuned": 3.0}, "key k-admin", "try")]


@scenario(require_keys=True, gateway={"admin": Calls()})
async def test_the_admin_port_is_for_programs_of_this_machine(setup):
    async def call(method, path, body=None, headers=None):
        return await setup.call(method, path, body, headers, url=setup.admin_url)

    status, _, raw = await call("GET", "/admin/status")
    answer = json.loads(raw)
    assert status == 200 and answer["deployment"] == {"version": 3}
    assert answer["gateway"]["variants"]["base"]["share"] == 1.0
    assert len(answer["gateway"]["variants"]["base"]["engines"]) == 2
    status, _, raw = await call("GET", "/admin/weights")
    assert json.loads(raw)["shares"] == {"base": 1.0, "tuned": 0.0}
    assert (await call("POST", "/admin/weights", WEIGHTS))[0] == 200
    assert setup.gateway.admin._calls.asked == [({"base": 1.0, "tuned": 3.0}, "admin port", "try")]
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert (await call("POST", "/admin/weights", WEIGHTS, headers))[0] == 403
    assert (await call("POST", "/v1/completions", {}))[0] == 404  # nothing else is there
    for path in ("/health", "/ready", "/metrics"):
        assert (await call("GET", path))[0] == 200


@scenario(keys=KEYS, gateway={"admin": Calls()})
async def test_weights_that_are_none_are_refused(setup):
    for body in ({}, {"weights": {}}, {"weights": [1]}, {"weights": {"base": "1"}}, {**WEIGHTS, "reason": 7}, b"{"):
        await setup.problem(400, body, "/admin/weights", ADMIN)
    error = await setup.problem(400, {"weights": {"base": 1}}, "/admin/weights", ADMIN)
    assert "every variant" in error["message"]


@scenario(keys=KEYS)
async def test_without_a_store_weights_can_be_read_and_not_written(setup):
    assert (await setup.get("/admin/weights", ADMIN))[0] == 200
    await setup.problem(503, WEIGHTS, "/admin/weights", ADMIN)
