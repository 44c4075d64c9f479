"""A Ray actor that listens on the public address and runs a gateway. It takes no CPU slot."""

from __future__ import annotations

from aiohttp import web

from serving.control.ports import cannot_listen
from serving.gateway.app import Gateway
from serving.gateway.table import RouteTable

DRAIN_S = 5.0


class GatewayHost:
    """Hosts one gateway; run as an asyncio Ray actor."""

    def __init__(self) -> None:
        self._gateway = Gateway()
        self._runner: web.AppRunner | None = None

    async def listen(self, host: str, port: int) -> tuple[int, str]:
        """Start to answer; returns the port and the Ray node.

        Raises:
            UserError: the address cannot be listened on.
        """
        import ray

        # Cancelled handlers close their connection to the engine, which then stops generating.
        runner = web.AppRunner(
            self._gateway.application(), handler_cancellation=True, access_log=None, shutdown_timeout=DRAIN_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            raise cannot_listen(host, port, error) from None
        self._runner = runner
        return runner.addresses[0][1], ray.get_runtime_context().get_node_id()

    async def update(self, routes: RouteTable) -> None:
        """Take a newer route table."""
        self._gateway.update(routes)

    async def close(self) -> None:
        """Stop listening, let requests in flight finish for a few seconds, and close."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
