"""The calls that a replica makes to its own engine: health, a first request for each model, adapters, load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

from cluster.errors import InfraError, UserError
from serving.engines.load import Load

HEALTH_TIMEOUT_S = 4.0
"""Shorter than Serve waits for a health check (10 s), so that a hung engine is a failed check and not a late one."""

METRICS_TIMEOUT_S = 2.0
ADAPTER_TIMEOUT_S = 120.0
WARM_UPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "a"}),
    ("/pooling", {"input": "a"}),
)
"""A model's first request takes the first of these paths that its server has; not every model completes texts."""

UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)


class EngineApi:
    """One engine's HTTP interface.

    Args:
        address: its base URL.
        key: the bearer token that it wants.
    """

    def __init__(self, address: str, key: str) -> None:
        self._address, self._headers = address, {"Authorization": f"Bearer {key}"}

    async def healthy(self) -> bool:
        """Whether it says, within :data:`HEALTH_TIMEOUT_S`, that its engine runs."""
        try:
            status, _ = await self._ask("GET", "/health", None, HEALTH_TIMEOUT_S)
        except UNREACHABLE:
            return False
        return status == 200

    async def first_answer(self, model: str, seconds: float) -> tuple[bool, str]:
        """Whether a model answers a request, and otherwise what the server says.

        Raises:
            TimeoutError, aiohttp.ClientError: it said nothing.
        """
        said = ""
        for path, body in WARM_UPS:
            status, text = await self._ask("POST", path, {"model": model, **body}, seconds)
            if status == 200:
                return True, ""
            said = said or message(text)
            if status != 404:
                break
        return False, said

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Put an adapter beside the base weights, under a name of its own; harmless where it is there already.

        Raises:
            UserError: the engine refuses it; with the engine's reason.
            InfraError: the engine did not answer.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        status, text = await self._change("/v1/load_lora_adapter", body)
        if status != 200 and "already been loaded" not in text:
            raise UserError(f"vLLM refuses the adapter: {message(text)}", where=f"serving: adapter {folder}")

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter away; requests that it works on are finished with it.

        Raises:
            InfraError: the engine did not answer.
        """
        await self._change("/v1/unload_lora_adapter", {"lora_name": name})

    async def load(self) -> Load | None:
        """What its metrics page says of its work; None where it does not answer."""
        try:
            status, text = await self._ask("GET", "/metrics", None, METRICS_TIMEOUT_S)
        except UNREACHABLE:
            return None
        return Load.read(text) if status == 200 else None

    async def ongoing(self) -> int | None:
        """Requests that the engine works on or has queued; None where it does not say."""
        load = await self.load()
        return load.ongoing if load is not None else None

    async def _change(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        try:
            return await self._ask("POST", path, body, ADAPTER_TIMEOUT_S)
        except UNREACHABLE as error:
            raise InfraError(
                f"the engine does not answer: {error or type(error).__name__}", where=self._address + path
            ) from None

    async def _ask(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with (
            aiohttp.ClientSession(headers=self._headers, timeout=timeout, trust_env=False) as session,
            session.request(method, self._address + path, json=body) as reply,
        ):
            return reply.status, await reply.text(errors="replace")


def message(answer: str) -> str:
    """The message in an error of OpenAI's shape or of FastAPI's; otherwise the answer itself, cut."""
    try:
        body = json.loads(answer)
    except ValueError:
        body = {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    found = error.get("message") or error.get("detail") if isinstance(error, dict) else None
    return str(found or answer)[:300]
