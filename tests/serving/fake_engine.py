"""A server that answers like vLLM's where no inference is tested. Its behaviour is steered by the request's prompt.

``die``: the process exits before it answers; ``die-midway``: after the first events of a stream; ``slow``: answers
after half a second, ``hang``: never, ``stall``: never ends its stream; ``fail``: status 500; ``no-model``: the model is
unknown; ``flood``: a stream that does not stop; ``paced``: 10 ms for each event. Where ``schemas`` are given it holds
requests to them, as vLLM does. Run as a script it takes its port from RAYMILL_ENGINE_PORT and its key from
VLLM_API_KEY, and starts a child of its own, as vLLM does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from aiohttp import web

PIECES = 5


class FakeEngine:
    """Echoes what it was asked for; remembers the bodies it got."""

    def __init__(self, name: str = "", key: str = "", on_death: object = None) -> None:
        self.name, self.key, self.requests = name, key, []
        self.cancelled = 0
        self.failing = float(os.environ.get("FAKE_ENGINE_FAILS", "0"))
        self.ongoing = 0
        self.adapters: dict[str, str] = {}
        self.go_on: asyncio.Event | None = None
        self.schemas: dict[str, dict] = {}
        self.embeds = False
        self.slow = self.tokens = 0
        self.headers: list[dict[str, str]] = []
        self.on_death = on_death or (lambda: os._exit(1))

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/completions", self.counted)
        app.router.add_post("/v1/chat/completions", self.counted)
        if self.embeds:
            app.router.add_post("/v1/embeddings", self.counted)
        app.router.add_post("/v1/load_lora_adapter", self.load_adapter)
        app.router.add_post("/v1/unload_lora_adapter", self.unload_adapter)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        """As vLLM's: between two looks at it a slow answer moves, one that hangs does not."""
        self.tokens += self.slow
        labels = '{engine="0",model_name="x"}'
        return web.Response(
            text=f"vllm:num_requests_running{labels} {float(self.ongoing)}\n"
            f"vllm:generation_tokens_total{labels} {float(self.tokens)}\n"
        )

    async def load_adapter(self, request: web.Request) -> web.Response:
        """As vLLM does; a folder that is called ``refused`` is refused."""
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return web.json_response({"error": {"message": "the adapter has already been loaded"}}, status=400)
        if Path(body["lora_path"]).name == "refused":
            return web.json_response({"error": {"message": "this adapter is not to my taste"}}, status=500)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return web.json_response({"error": {"message": f"{name} cannot be found"}}, status=404)
        return web.Response(text="Success")

    async def counted(self, request: web.Request) -> web.StreamResponse:
        self.ongoing += 1
        try:
            return await self.generate(request)
        finally:
            self.ongoing -= 1

    async def generate(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if problem := self.problem(request.path, body):
            error = {"message": problem, "type": "BadRequestError", "param": None, "code": 400}
            return web.json_response({"error": error}, status=400)
        if request.path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return web.json_response({"object": "list", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        prompt = body.get("prompt", "")
        if prompt == "x" and random.random() < self.failing:
            prompt = "fail"
        if prompt == "no-model":
            error = {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError", "code": 404}
            return web.json_response({"error": error}, status=404)
        if prompt == "die":
            request.transport.abort()
            self.on_death()
            await asyncio.sleep(1)
        if prompt == "fail":
            error = {"message": "engine trouble", "type": "InternalServerError", "param": None, "code": 500}
            return web.json_response({"error": error}, status=500)
        if prompt in ("slow", "hang"):
            self.slow += prompt == "slow"
            try:
                await asyncio.sleep(0.5 if prompt == "slow" else 600)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.slow -= prompt == "slow"
        if body.get("stream"):
            return await self.stream(request, prompt, body)
        answer = {"id": "x", "object": "text_completion", "created": 1, "model": body["model"], "engine": self.name}
        answer["asked"] = body["model"]  # the gateway gives callers the public name in its place
        choice = {
            "index": 0,
            "text": "ok",
            "finish_reason": "length",
            "message": {"role": "assistant", "content": "ok"},
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        whole = json.dumps({**answer, "choices": [choice], "usage": usage}, separators=(",", ":"))  # as vLLM writes it
        return web.json_response(text=whole)

    def problem(self, path: str, body: object) -> str:
        """What a schema says against a request; nothing where it fits."""
        if path not in self.schemas:
            return ""
        import jsonschema

        found = next(jsonschema.Draft202012Validator(self.schemas[path]).iter_errors(body), None)
        return found.message[:200] if found else ""

    async def stream(self, request: web.Request, prompt: str, body: dict) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            return await self.events(request, prompt, body, response)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise

    async def events(
        self, request: web.Request, prompt: str, body: dict, response: web.StreamResponse
    ) -> web.StreamResponse:
        while prompt == "flood":
            await response.write(compact_event({"choices": [{"index": 0, "text": "x" * 4000}]}))
        for index in range(PIECES):
            choice = {"index": 0, "text": f"{index} ", "delta": {"content": f"{index} "}, "finish_reason": None}
            event = {"id": "x", "object": "text_completion", "created": 1, "model": body["model"], "choices": [choice]}
            await response.write(compact_event(event))
            if prompt == "step" and self.go_on is not None:
                await self.go_on.wait()  # the test lets every piece go by itself
                self.go_on.clear()
            if prompt == "drip":
                await asyncio.sleep(0.3)
            if prompt == "paced":
                await asyncio.sleep(0.01)
            if prompt == "stall":
                await asyncio.sleep(600)
            if prompt == "die-midway" and index == 1:
                await asyncio.sleep(0.05)
                request.transport.abort()
                return response
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "total_tokens": 3 + PIECES, "completion_tokens": PIECES}
            await response.write(compact_event({"id": "x", "choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def compact_event(event: dict) -> bytes:
    """A server-sent event, written as vLLM writes it."""
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


if __name__ == "__main__":
    if os.environ.get("FAKE_ENGINE_REFUSES"):
        print("(APIServer pid=1) ValueError: this model is not to my taste", flush=True)
        sys.exit(1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    engine = FakeEngine(key=os.environ.get("VLLM_API_KEY", ""))
    app = engine.application()
    host = os.environ.get("FAKE_ENGINE_HOST", "127.0.0.1")
    web.run_app(app, host=host, port=int(os.environ["RAYMILL_ENGINE_PORT"]), print=None, handle_signals=True)
