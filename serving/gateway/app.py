"""The endpoint that clients call: it decides who answers, and passes the bytes through.

One server outside Ray Serve's proxy: the answer's bytes come from the vLLM server as they are. What it knows comes as a
:class:`serving.gateway.table.RouteTable`; a new one takes effect with the next request.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from serving.access.keys import ApiKey, KeyRing
from serving.access.rate import UsageLimiter
from serving.gateway import admission, wire
from serving.gateway.admin import Admin, AdminCalls, StoreCalls
from serving.gateway.answering import Answering
from serving.gateway.body import BodyBudget, HeldBody
from serving.gateway.engines import Engines
from serving.gateway.exchange import error_response
from serving.gateway.feedback import feedback_of
from serving.gateway.generating import Generating
from serving.gateway.guard import GuardedServer, raise_open_files
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.observation import GatewayReport, OthersUse
from serving.gateway.observe import Observations
from serving.gateway.openapi import description
from serving.gateway.report import STARTING, Reporting
from serving.gateway.shadow import Shadow
from serving.gateway.table import RouteTable
from serving.gateway.waiting import Places

BACKLOG = 4096
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ONE_OF_EACH = (hdrs.HOST, hdrs.AUTHORIZATION, hdrs.CONTENT_TYPE, "X-Raymill-Override", *wire.USER_HEADERS)
"""Headers that must not be given twice: nobody could say which one holds."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Gateway:
    """The endpoint: its parts, its routes, its listening and its end.

    Args:
        name: for reports.
        state_url: the store with the deployment's state, for admin calls; none without it.
        deployment: the deployment's name.
        admin: admin calls instead of those to the store.
    """

    def __init__(
        self, name: str = "gateway", state_url: str = "", deployment: str = "", *, admin: AdminCalls | None = None
    ) -> None:
        self.metrics = GatewayMetrics()
        self.places = Places()
        self.engines = Engines(self.metrics, self.places.engines_changed)
        self.limiter = UsageLimiter()
        self.observations = Observations(self.metrics)
        self.answering = Answering(self.engines, self.metrics)
        self.reporting = Reporting(name, self.engines, self.places, self.limiter)
        self.shadow = Shadow(self.engines, self.metrics)
        self.budget = BodyBudget()
        self.keys = KeyRing()
        self.generating = Generating(self)
        self.admin = Admin(self.reporting, admin or (StoreCalls(state_url, deployment) if state_url else None))
        self.port = 0
        self._servers: list[tuple[GuardedServer, asyncio.Server]] = []
        self.reporting.connect(self.metrics)
        self.metrics.connections.read = lambda: {(): float(sum(len(each.connections) for each, _ in self._servers))}
        self._shared: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/-/healthz": {"GET": self._healthz},
            "/metrics": {"GET": self._metrics},
        }
        self._public: dict[str, dict[str, Handler]] = {
            **self._shared,
            "/v1/models": {"GET": self._models},
            **{path: {"POST": self.generating.handle} for path in (wire.COMPLETIONS, wire.CHAT, wire.EMBEDDINGS)},
            "/v1/feedback": {"POST": self._feedback},
            "/openapi.json": {"GET": self._openapi},
            "/admin/status": {"GET": self._keyed(self._admin_status)},
            "/admin/weights": {"GET": self._keyed(self._admin_weights), "POST": self._keyed(self._admin_set_weights)},
        }
        self._private: dict[str, dict[str, Handler]] = {
            **self._shared,
            "/admin/status": {"GET": self._local(self._admin_status)},
            "/admin/weights": {"GET": self._local(self._admin_weights), "POST": self._local(self._admin_set_weights)},
        }

    @property
    def routes(self) -> RouteTable | None:
        """The table in force."""
        return self.reporting.table

    def update(self, table: RouteTable) -> None:
        """Take a newer route table; requests in flight finish as they began."""
        known = self.routes
        if known is not None and table.serial <= known.serial:
            return
        if known is None or table.keys != known.keys:
            self.keys = KeyRing(table.keys)
            self.limiter.know(table.keys, time.monotonic())
        self.places.resize(table.limits.max_ongoing)
        for server, _ in self._servers:
            server.limits = table.limits
        self.reporting.take_table(table)
        self.engines.update(table)

    def report(self, others_use: OthersUse | None = None) -> GatewayReport:
        """What happened since the last report, and how busy it is.

        Args:
            others_use: what the other gateways have let keys use; None where that is not known yet.
        """
        if others_use is not None:
            self.limiter.absorb(others_use, time.monotonic())
        return self.reporting.report(self.observations, self.port)

    async def listen(self, listener: socket.socket, *, admin: bool = False) -> int:
        """Answer on a bound socket; returns its port.

        Args:
            admin: serve the admin calls there, without a key: the socket must be on loopback.

        Raises:
            OSError: the socket cannot be listened on.
        """
        raise_open_files()
        self.engines.start()
        server = GuardedServer(self._answer_admin if admin else self._answer_public)
        if self.routes is not None:
            server.limits = self.routes.limits
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server, sock=listener, backlog=BACKLOG)
        self._servers.append((server, listening))
        port = int(listener.getsockname()[1])
        self.port = self.port if admin else port
        return port

    async def drain(self, seconds: float) -> None:
        """Accept nobody new, let answers in flight finish for so long, and close; streams that cannot are told."""
        self.reporting.draining = True
        self.port = 0
        await asyncio.sleep(0)  # connections that the kernel has accepted already are taken first
        for _, listening in self._servers:
            listening.close()
        await self.generating.finished(seconds)
        for server, _ in self._servers:
            await server.shutdown(1.0)
        await self.shadow.close()
        await self.engines.close()
        self._servers.clear()

    async def close(self) -> None:
        """Close at once."""
        await self.drain(0)

    def caller(self, request: web.BaseRequest, *, needed: bool) -> tuple[ApiKey | None, bool]:
        """The key of a request, and whether there was one at all.

        Raises:
            ApiError: 401 where a key is needed and none is good.
        """
        secret = admission.bearer(request.headers)
        key = self.keys.find(secret) if secret else None
        if needed:
            admission.require_scope(key, secret is not None, "call")
        return key, secret is not None

    async def read_json(self, request: web.BaseRequest) -> dict[str, Any]:
        """The JSON object of a small request."""
        table = self.routes
        if table is None:
            raise wire.Unavailable(STARTING)
        held = HeldBody(self.budget)
        try:
            return wire.parse_body(await held.read(request, table.limits))
        finally:
            held.release()

    async def _answer_public(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._answer(request, self._public)

    async def _answer_admin(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._answer(request, self._private)

    async def _answer(self, request: web.BaseRequest, paths: dict[str, dict[str, Handler]]) -> web.StreamResponse:
        try:
            _check_headers(request)
            response = await self._handler(request, paths)(request)
        except wire.ApiError as error:
            self.metrics.refused.add(error.code or str(error.status))
            response = error_response(error)
        if self.reporting.draining and not response.prepared:
            response.force_close()
        return response

    def _handler(self, request: web.BaseRequest, paths: dict[str, dict[str, Handler]]) -> Handler:
        path = request.path
        methods = paths.get(path)
        if methods is None and path.startswith("/v1/models/") and paths is self._public:
            methods = {"GET": self._model}
        if methods is None:
            raise wire.ApiError(404, f"there is nothing at {path[:200]}", code="not_found")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            message = f"{request.method[:20]} is not possible at {path[:200]}"
            raise wire.ApiError(405, message, code="method_not_allowed", headers={"Allow": allowed})
        return handler

    def _keyed(self, call: Callable[[web.BaseRequest, str], Awaitable[web.Response]]) -> Handler:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            key, given = self.caller(request, needed=False)
            admission.require_scope(key, given, "admin")
            assert key is not None
            return await call(request, f"key {key.id}")

        return handle

    def _local(self, call: Callable[[web.BaseRequest, str], Awaitable[web.Response]]) -> Handler:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            # A web page in a browser of this machine must not be able to ask: neither directly nor by DNS rebinding.
            host = request.host.rpartition(":")[0] if not request.host.endswith("]") else request.host
            if (host or request.host) not in LOOPBACK or hdrs.ORIGIN in request.headers:
                raise admission.forbidden("admin calls are for this machine's own programs", code="not_local")
            return await call(request, "admin port")

        return handle

    async def _admin_status(self, request: web.BaseRequest, by: str) -> web.Response:
        return _json(await self.admin.status())

    async def _admin_weights(self, request: web.BaseRequest, by: str) -> web.Response:
        return _json(self.admin.weights())

    async def _admin_set_weights(self, request: web.BaseRequest, by: str) -> web.Response:
        return _json(await self.admin.set_weights(await self.read_json(request), by))

    async def _feedback(self, request: web.BaseRequest) -> web.Response:
        table, key = self._permitted(request)
        feedback = feedback_of(await self.read_json(request), table.experiment, time.time())
        if key is not None:  # it counts as a request of its key, without tokens
            admitted = await admission.begin(self.limiter, key, 0, time.monotonic)
            self.limiter.finish(admitted, time.monotonic(), 0)
        self.observations.add_feedback(feedback)
        return _json({"object": "feedback", "accepted": True})

    async def _models(self, request: web.BaseRequest) -> web.Response:
        return _json({"object": "list", "data": [self._model_record(request)]})

    async def _model(self, request: web.BaseRequest) -> web.Response:
        record = self._model_record(request)
        wire.check_model({"model": request.path.removeprefix("/v1/models/")}, record["id"])
        return _json(record)

    def _permitted(self, request: web.BaseRequest) -> tuple[RouteTable, ApiKey | None]:
        """The table in force and the caller's key, which may use its model."""
        table = self.routes
        if table is None:
            raise wire.Unavailable(STARTING)
        key, _ = self.caller(request, needed=table.require_keys)
        admission.check_key_model(key, table.model)
        return table, key

    def _model_record(self, request: web.BaseRequest) -> dict[str, Any]:
        table, _ = self._permitted(request)
        return {"id": table.model, "object": "model", "created": table.created, "owned_by": "raymill"}

    async def _health(self, request: web.BaseRequest) -> web.Response:
        return _json({"status": "ok"})

    async def _ready(self, request: web.BaseRequest) -> web.Response:
        return _json(self.reporting.readiness())

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        """As Ray Serve's proxy says it: KubeRay looks for the word."""
        self.reporting.readiness()
        return web.Response(body=b"success", headers={"Content-Type": "text/plain"})

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        return web.Response(body=self.metrics.render().encode(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _openapi(self, request: web.BaseRequest) -> web.Response:
        return _json(description(self.routes))


def _json(value: Mapping[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), headers={"Content-Type": wire.JSON})


def _check_headers(request: web.BaseRequest) -> None:
    """Refuse what RFC 9112 (3.2) refuses, and headers of ours that contradict themselves."""
    headers = request.headers
    if hdrs.HOST not in headers and request.version >= HttpVersion11:
        raise wire.ApiError(400, "a request names its host", code="invalid_request")
    for name in ONE_OF_EACH:
        if len(headers.getall(name, ())) > 1:
            raise wire.ApiError(400, f"the header {name} is given more than once", code="duplicate_header")
