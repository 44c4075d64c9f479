"""A server in an engine's place that only says that it is well: what an idle variant's engine would do, without vLLM.

Takes its port from RAYMILL_ENGINE_PORT, as a replica gives it.
"""

from __future__ import annotations

import os

from aiohttp import web


async def well(request: web.Request) -> web.Response:
    """``/health``, and ``/metrics`` with nothing at work."""
    return web.Response(text='vllm:num_requests_running{engine="0"} 0.0\n')


async def complete(request: web.Request) -> web.Response:
    """The warm-up."""
    return web.json_response({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})


def main() -> None:
    app = web.Application()
    app.router.add_get("/health", well)
    app.router.add_get("/metrics", well)
    app.router.add_post("/v1/completions", complete)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["RAYMILL_ENGINE_PORT"]), print=None)


if __name__ == "__main__":
    main()
