"""A gateway in a plain process, without Ray: what the endpoint's code costs apart from where it runs.

    python -m benchmarks.plain_gateway PORT MODEL ENGINE_MODEL ADDRESS KEY

Listens on loopback until its standard input closes; several may share a port.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import uvloop
from aiohttp import web

from serving.gateway.app import Gateway
from serving.gateway.table import RouteTable, VariantRoute
from serving.split.assignment import Allocation


async def serve(port: int, table: RouteTable) -> None:
    """Answer by one table until standard input closes."""
    gateway = Gateway()
    gateway.update(table)
    runner = web.AppRunner(gateway.application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        await web.SockSite(runner, listener, backlog=1024).start()
        print(listener.getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()


def main() -> None:
    port, model, engine_model, address, key = sys.argv[1:]
    table = RouteTable(
        model=model,
        experiment="benchmark",
        allocation=Allocation.first({"base": 1.0}),
        variants={"base": VariantRoute(engine_model, (address,))},
        key=key,
        serial=1,
        created=int(time.time()),
    )
    uvloop.run(serve(int(port), table))


if __name__ == "__main__":
    main()
