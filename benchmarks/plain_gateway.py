"""A gateway in a plain process, without Ray: what the endpoint's code costs apart from where it runs.

    python -m benchmarks.plain_gateway PORT SECRET ENGINE_MODEL ADDRESS ENGINE_KEY

Everything is switched on: keys are required and limited, and a rollout observes. Listens on loopback until its standard
input closes; several may share a port.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import sys
import time

import uvloop

from serving.access.keys import ApiKey, KeyLimits
from serving.config import LimitsConfig
from serving.gateway.app import Gateway
from serving.gateway.observation import OthersUse
from serving.gateway.table import RouteTable, VariantRoute
from serving.split.assignment import Allocation

MODEL = "bench"
REPORT_INTERVAL_S = 0.5
GENEROUS = KeyLimits(requests_per_minute=10**7, tokens_per_minute=10**9, concurrency=10_000)


def table(secret: str, engine_model: str, address: str, engine_key: str) -> RouteTable:
    """One variant with users, in a rollout with another that has none."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    key = ApiKey(id="bench", name="benchmark", sha256=digest, limits=GENEROUS, created_at=0, created_by="benchmark")
    return RouteTable(
        model=MODEL,
        experiment="benchmark",
        allocation=Allocation.first({"base": 1.0, "candidate": 0.0}),
        variants={"base": VariantRoute(engine_model, (address,)), "candidate": VariantRoute(engine_model, (address,))},
        key=engine_key,
        serial=1,
        created=int(time.time()),
        version=1,
        limits=LimitsConfig(max_tokens=1024),
        keys=(key,),
        require_keys=True,
        rollout=("base", "candidate"),
    )


async def serve(port: int, routes: RouteTable) -> None:
    """Answer by one table until standard input closes, and report as to a controller."""
    gateway = Gateway("bench")
    gateway.update(routes)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    print(await gateway.listen(listener), flush=True)

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            gateway.report(OthersUse({}, gateways=1))

    reporting = asyncio.create_task(report())
    await asyncio.to_thread(sys.stdin.read)
    reporting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reporting  # raises what ended it early
    await gateway.close()


def main() -> None:
    port, *rest = sys.argv[1:]
    uvloop.run(serve(int(port), table(*rest)))


if __name__ == "__main__":
    main()
