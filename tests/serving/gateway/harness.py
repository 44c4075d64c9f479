"""A gateway over real connections in front of engines that do no inference, for the tests beside this file."""

import asyncio
import functools
import importlib.util
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
from aiohttp import web

from serving.gateway.app import Gateway
from serving.gateway.table import RouteTable, VariantRoute
from serving.split.assignment import Allocation

_spec = importlib.util.spec_from_file_location("fake_engine", Path(__file__).parents[1] / "fake_engine.py")
fake_engine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_engine)

KEY = "engine-key"
COMPLETION = {"model": "demo", "prompt": "hello", "user": "u1"}
BASE_ONLY = {"base": 1, "tuned": 0}


def bound_socket():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class Setup:
    """A gateway in front of fake engines; ``base`` has the first two, ``tuned`` the third."""

    def __init__(self, **gateway):
        self.gateway = Gateway("gateway-0", **gateway)
        self.engines, self.runners, self.addresses = [], [], []
        self.url = self.admin_url = ""
        self.session = None
        self.embeds = False

    async def start(self, weights, **table):
        for name in ("base-0", "base-1", "tuned-0"):
            await self.add_engine(name)
        self.port = await self.gateway.listen(bound_socket())
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{await self.gateway.listen(bound_socket(), admin=True)}"
        self.table = RouteTable(
            model="demo",
            experiment="demo",
            allocation=Allocation.first(weights),
            variants={
                "base": VariantRoute("base", tuple(self.addresses[:2])),
                "tuned": VariantRoute("tuned", (self.addresses[2],)),
            },
            key=KEY,
            serial=1,
            created=1,
            **table,
        )
        self.gateway.update(self.table)
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def add_engine(self, name):
        engine = fake_engine.FakeEngine(name, KEY)
        engine.embeds = self.embeds
        index = len(self.runners)
        engine.on_death = lambda: asyncio.ensure_future(self.runners[index].cleanup())
        self.engines.append(engine)
        self.addresses.append(await self.serve(engine.application()))
        return engine

    async def serve(self, app):
        """Answer with another application; its base URL."""
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    def push(self, *, limits=None, **changes):
        if limits:
            changes["limits"] = self.table.limits.model_copy(update=limits)
        self.table = replace(self.table, serial=self.table.serial + 1, **changes)
        self.gateway.update(self.table)

    def routes(self, **variants):
        """The table's variants with some replaced."""
        return {**self.table.variants, **variants}

    @property
    def asked(self):
        """Every body that an engine got."""
        return [body for engine in self.engines for body in engine.requests]

    async def call(self, method, path, body=None, headers=None, url=None):
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        async with self.session.request(method, (url or self.url) + path, data=data, headers=headers or {}) as reply:
            return reply.status, reply.headers, await reply.read()

    async def post(self, body, path="/v1/completions", headers=None):
        return await self.call("POST", path, body, headers)

    async def get(self, path, headers=None):
        status, _, raw = await self.call("GET", path, headers=headers)
        return status, raw

    async def problem(self, status, body, path="/v1/completions", headers=None, method="POST"):
        """The error of a request that must fail with a status, in OpenAI's shape."""
        got, marks, raw = await self.call(method, path, body, headers)
        assert got == status, (got, raw)
        error = json.loads(raw)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert marks["Content-Type"].startswith("application/json")
        return error

    async def samples(self):
        """The metrics page: name and labels -> value."""
        _, page = await self.get("/metrics")
        lines = [line for line in page.decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    async def close(self):
        await self.session.close()
        await self.gateway.close()
        for runner in reversed(self.runners):
            await runner.cleanup()


async def until(condition, seconds=20.0):
    """Wait until something holds."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def raw_exchange(port, data, *, close=False, timeout=5.0):
    """What the gateway says to raw bytes, until it closes or ``timeout``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(data)
        if close:
            writer.write_eof()
        while piece := await asyncio.wait_for(reader.read(1 << 16), timeout):
            answer += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


def scenario(weights=BASE_ONLY, gateway=None, **table):
    """Run an async test inside a fresh setup."""

    @asynccontextmanager
    async def ready():
        setup = Setup(**(gateway or {}))
        await setup.start(weights, **table)
        try:
            yield setup
        finally:
            await setup.close()

    def wrap(test):
        # Not functools.wraps: pytest would take the wrapped test's parameters for fixtures.
        @functools.wraps(test, assigned=("__name__", "__doc__", "__module__"), updated=())
        def run():
            async def inside():
                async with ready() as setup:
                    await test(setup)

            asyncio.run(inside())

        del run.__wrapped__
        return run

    return wrap
