"""A gateway in a process of its own, for tests that measure or burden it.

    python gateway_process.py ENGINE_KEY LIMITS_JSON ADDRESS...

Prints its port, and ends when its standard input closes.
"""

import asyncio
import json
import socket
import sys

from serving.config import LimitsConfig
from serving.gateway.app import Gateway
from serving.gateway.table import RouteTable, VariantRoute
from serving.split.assignment import Allocation


async def main() -> None:
    key, limits, *addresses = sys.argv[1:]
    gateway = Gateway()
    gateway.update(
        RouteTable(
            model="demo",
            experiment="demo",
            allocation=Allocation.first({"base": 1}),
            variants={"base": VariantRoute("base", tuple(addresses))},
            key=key,
            serial=1,
            created=1,
            limits=LimitsConfig.model_validate(json.loads(limits)),
        )
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(await gateway.listen(listener), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await gateway.close()


asyncio.run(main())
