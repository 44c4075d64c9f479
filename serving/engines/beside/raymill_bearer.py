"""Keeps a vLLM server to those who have its key; loaded by vLLM itself (``--middleware``).

vLLM's own key guards some prefixes of paths only. Others, among them /invocations (every kind of inference) and, where
adapters come at runtime, /adapters (load any folder), are open to whoever reaches the port.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

OPEN_PATHS = ("/health", "/metrics")
"""What says nothing of anybody's requests, and is asked by monitoring that has no key."""

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class BearerGuard:
    """ASGI middleware: every other path wants ``Authorization: Bearer KEY``, with the key from VLLM_API_KEY.

    Raises:
        RuntimeError: there is no key; the server must not start then.
    """

    def __init__(self, app: Application) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        if not key:
            raise RuntimeError("VLLM_API_KEY is not set: this server would answer anybody")
        self._app, self._wanted = app, key.encode()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Pass the request on, or refuse it."""
        kind = scope["type"]
        if kind == "lifespan" or (kind == "http" and scope["path"] in OPEN_PATHS) or self._may(scope):
            await self._app(scope, receive, send)
        elif kind == "websocket":
            await receive()  # the server has to say "connect" before it can be refused
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _may(self, scope: Message) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key, self._wanted)
