"""What a replica says to the controller, and that neither a dead controller nor a hung engine confuses its health."""

import asyncio
import gc
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import psutil
import pytest
import ray

from cluster.errors import UserError
from serving.config import EngineConfig
from serving.control.state import EngineState, LoraCapacity, ModelSource
from serving.engines import api, replica
from serving.engines.announcement import Orders
from serving.engines.replica import EngineReplica, listening_host

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Ray Serve's own

FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]


class Controller:
    """Stands for the actor: ``controller.method.remote(…)`` gives something to await."""

    def __init__(self, wanted=None):
        self.wanted, self.calls, self.busy, self.reachable = wanted or {}, [], 0, True
        self.drain_seconds, self.served, self.since, self.dead = None, 1, 1.0, False

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *arguments: self._answer(method, arguments))

    async def _answer(self, method, arguments):
        if self.dead:
            raise ray.exceptions.ActorDiedError()
        if not self.reachable:
            raise ray.exceptions.ActorUnavailableError("it is being restarted", None)
        self.calls.append((method, *arguments))
        orders = Orders(self.wanted, self.drain_seconds, self.served, self.since)
        return {"announce": orders, "in_flight": self.busy, "withdraw": True}.get(method)

    def announced(self):
        return [arguments[0].models for method, *arguments in self.calls if method == "announce"]

    def named(self, *methods):
        return [method for method, *_ in self.calls if method in methods]


@pytest.fixture
def folder(tmp_path):
    for name, file in (("base", "config.json"), ("lora", "adapter_config.json"), ("refused", "adapter_config.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps({}))
    return tmp_path


@pytest.fixture
def running(folder, monkeypatch):
    """A replica outside Serve."""
    from ray import serve

    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(replica_tag="r1"))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(replica, "ANNOUNCE_S", 0.05)
    monkeypatch.delattr(EngineReplica, "__del__")  # Serve awaits it; the interpreter could not

    @asynccontextmanager
    async def start(controller, base="base", drain_seconds=10.0, **config):
        engine = EngineState(
            name="e",
            source=ModelSource(folder=str(folder / base)),
            config=EngineConfig(startup_timeout_seconds=60, **config),
            lora=LoraCapacity(slots=2, max_rank=8),
        )
        made = EngineReplica.__new__(EngineReplica)
        where = (str(folder / "store"), controller, "key", "", str(folder / "logs"))
        controller.drain_seconds = controller.drain_seconds or drain_seconds
        try:
            await made.__init__(engine, "cpu", *where, FAKE, drain_seconds)
            yield made
        finally:
            await made.leave()

    yield start
    gc.collect()


async def until(condition):
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")


def source(folder, name):
    return ModelSource(folder=str(folder / name))


def test_adapters_come_and_go_with_the_answers_and_are_announced_once_they_answer(running, folder):
    controller = Controller({"lora:x": source(folder, "lora")})

    async def scenario():
        async with running(controller) as made:
            await until(lambda: controller.announced()[-1:] == [("e", "lora:x")])
            assert controller.announced()[0] == ("e",)
            pid = psutil.Process(made._process.pid)
            controller.wanted = {}
            await until(lambda: controller.announced()[-1] == ("e",))
            controller.wanted = {"lora:x": source(folder, "lora")}  # it had left the engine, and can come again
            await until(lambda: controller.announced()[-1] == ("e", "lora:x"))
            assert pid.is_running() and made._process.pid == pid.pid

    asyncio.run(scenario())
    assert controller.named("refuse") == []
    assert controller.calls[-1][0] in ("withdraw", "in_flight")


def test_a_refused_adapter_is_told_once_to_each_controller_and_is_tried_again_when_it_is_served_again(running, folder):
    controller = Controller({"lora:bad": source(folder, "refused"), "lora:x": source(folder, "lora")})

    async def scenario():
        async with running(controller) as made:
            await until(lambda: len(controller.announced()) > 6 and made._adapting.done())
            assert len(controller.named("refuse")) == 1
            controller.since = 2.0  # it was killed, and began anew
            await until(lambda: len(controller.named("refuse")) == 2)
            controller.served = 2
            await until(lambda: len(controller.named("refuse")) == 3)

    asyncio.run(scenario())
    (_, model, error), _, _ = [call for call in controller.calls if call[0] == "refuse"]
    assert model == "lora:bad" and "not to my taste" in error.what


def test_a_dead_controller_is_no_reason_to_be_unhealthy(running, folder):
    controller = Controller({"lora:x": source(folder, "lora")})
    controller.reachable = False

    async def scenario():
        async with running(controller, drain_seconds=0.3) as made:
            await asyncio.wait_for(made.check_health(), 20)
            controller.reachable = True
            await until(lambda: controller.announced()[-1:] == [("e", "lora:x")])
            controller.reachable = False
            await asyncio.sleep(0.3)
            await made.check_health()
            assert list(made._shelf.held) == ["lora:x"]  # silence is no order to unload

    asyncio.run(scenario())


def test_a_hung_engine_is_withdrawn_and_a_failed_check_and_not_waited_for(running, monkeypatch):
    monkeypatch.setattr(api, "HEALTH_TIMEOUT_S", 0.5)
    controller = Controller()
    controller.busy = 1  # its requests will never be answered

    async def scenario():
        async with running(controller, drain_seconds=600) as made:
            os.kill(made._process.pid, signal.SIGSTOP)
            with pytest.raises(RuntimeError, match="does not answer"):
                await asyncio.wait_for(made.check_health(), 20)
            await until(lambda: controller.named("withdraw"))

    monkeypatch.setattr("serving.engines.process.GRACE_S", 0.2)
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_it_is_announced_again_and_again_without_any_health_check_of_serve(running):
    controller = Controller()

    async def scenario():
        async with running(controller) as made:
            await until(lambda: controller.announced()[4:])
            os.kill(made._process.pid, signal.SIGSTOP)
            await until(lambda: controller.named("announce", "withdraw")[-1] == "withdraw")
            os.kill(made._process.pid, signal.SIGCONT)
            await until(lambda: controller.named("announce", "withdraw")[-1] == "announce")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "HEALTH_TIMEOUT_S", 0.5)
        asyncio.run(scenario())


def test_an_engine_that_dies_is_withdrawn_before_any_health_check(running):
    controller = Controller()

    async def scenario():
        async with running(controller) as made:
            os.kill(made._process.pid, signal.SIGKILL)
            await until(lambda: controller.named("withdraw"))
            with pytest.raises(RuntimeError):
                await made.check_health()
            assert controller.named("announce", "withdraw")[-1] == "withdraw"

    asyncio.run(scenario())


def test_requests_in_flight_are_finished_before_the_server_stops(running):
    controller = Controller()

    async def ask(address):
        headers = {"Authorization": "Bearer key"}
        async with aiohttp.ClientSession(headers=headers) as session:
            body = {"model": "e", "prompt": "slow"}
            async with session.post(f"{address}/v1/completions", json=body) as reply:
                return reply.status

    async def scenario():
        async with running(controller) as made:
            request = asyncio.create_task(ask(await made()))
            while not await made._process.api.ongoing():
                await asyncio.sleep(0.02)
            controller.dead = True  # nobody but the engine itself knows of the request
            await made.leave()
            return await request

    assert asyncio.run(scenario()) == 200


def test_the_gateways_count_is_waited_for_but_not_for_ever(running):
    controller = Controller()

    async def scenario():
        async with running(controller, drain_seconds=600) as made:
            process, controller.busy = made._process, 1
            leaving = asyncio.create_task(made.leave())
            await until(lambda: controller.named("in_flight")[3:])
            assert process.alive()
            controller.busy = 0
            await asyncio.wait_for(leaving, 20)
            assert not process.alive()

    asyncio.run(scenario())
    assert controller.named("withdraw", "in_flight")[0] == "withdraw"


def test_while_the_controller_is_being_restarted_gateways_are_waited_for_and_told_again(running):
    controller = Controller()

    async def scenario():
        async with running(controller, drain_seconds=600) as made:
            process, controller.reachable = made._process, False
            leaving = asyncio.create_task(made.leave())
            await asyncio.sleep(1)
            assert process.alive()  # gateways may still send requests
            controller.reachable, controller.busy = True, None
            await until(lambda: controller.named("in_flight")[5:])
            assert process.alive() and controller.named("withdraw") == ["withdraw"]
            controller.busy = 0
            await asyncio.wait_for(leaving, 20)

    asyncio.run(scenario())


def test_the_time_for_answers_may_be_changed_while_it_runs(running):
    controller = Controller()
    controller.busy, controller.drain_seconds = 1, 0.3

    async def scenario():
        async with running(controller, drain_seconds=600) as made:
            await until(controller.announced)
            await asyncio.wait_for(made.leave(), 20)

    asyncio.run(scenario())


def test_an_engine_is_on_loopback_only_where_those_who_call_it_are():
    assert listening_host("10.0.0.1", "10.0.0.1") == "127.0.0.1"
    assert listening_host("10.0.0.1", "10.0.0.2") == "10.0.0.2"  # another node's 127.0.0.1 is not ours
    assert listening_host("", "10.0.0.1") == "10.0.0.1"


def test_patience_with_requests_in_flight_ends(running):
    controller = Controller()
    controller.busy = 1

    async def scenario():
        async with running(controller, drain_seconds=0.3) as made:
            await asyncio.wait_for(made.leave(), 20)
            assert made._process.pid and not made._process.alive()

    asyncio.run(scenario())


def test_a_model_that_is_not_there_is_refused_under_the_engines_name(running, monkeypatch):
    monkeypatch.setattr(replica, "REFUSAL_TRIES", 1)
    controller = Controller()

    async def scenario():
        async with running(controller, base="nowhere"):
            pass

    with pytest.raises(UserError, match=r"config\.json is not in"):
        asyncio.run(scenario())
    assert [call[:2] for call in controller.calls] == [("refuse", "e")]
