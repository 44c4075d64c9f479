"""Which adapters an engine holds, moved towards those that it should hold without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp

from cluster.errors import InfraError, RaymillError, UserError, explain_os_error
from serving.control.state import ModelSource
from serving.engines.api import ADAPTER_TIMEOUT_S, EngineApi


class AdapterShelf:
    """The adapters of one running engine.

    Args:
        engine: the calls to it.
        resolve: an adapter's folder on this node; may take as long as a download.
        refuse: told of an adapter that cannot be used, and why.

    Attributes:
        held: those that have answered a request.
    """

    def __init__(
        self,
        engine: EngineApi,
        resolve: Callable[[ModelSource], Path],
        refuse: Callable[[str, RaymillError], Awaitable[None]],
    ) -> None:
        self.held: dict[str, ModelSource] = {}
        self._engine, self._resolve, self._refuse = engine, resolve, refuse
        self._refused: dict[str, tuple[ModelSource, UserError]] = {}
        self._leaving: list[str] = []
        self._told: dict[str, str] = {}

    async def follow(self, wanted: Mapping[str, ModelSource]) -> bool:
        """Take one step towards what is wanted; True where ``held`` changed and the caller should say so.

        One that is not wanted leaves ``held`` first, and the engine with the next step, when gateways know. One that
        was refused is not tried again until it was not wanted for a while, or :meth:`try_again`. What a network, a disk
        or a slow engine prevents is told, and tried again with the next step.
        """
        self._refused = {name: each for name, each in self._refused.items() if wanted.get(name) == each[0]}
        self._told = {name: told for name, told in self._told.items() if name in wanted}
        for name, (_, error) in list(self._refused.items()):
            await self._tell(name, error)
        try:
            while self._leaving:
                await self._engine.unload_adapter(self._leaving[0])
                self._leaving.pop(0)
        except InfraError:
            return False  # health checks say the rest
        gone = [name for name, source in self.held.items() if wanted.get(name) != source]
        for name in gone:
            del self.held[name]
            self._leaving.append(name)
        missing = [name for name in wanted if name not in {*self.held, *self._refused, *gone}]
        came = [name for name in missing if await self._load(name, wanted[name])]
        return bool(gone or came)

    def try_again(self) -> None:
        """Forget what was refused: its folder may have been mended."""
        self._refused.clear()
        self._told.clear()

    def tell_again(self) -> None:
        """Say with the next step why adapters are missing: who was told does not know it any more."""
        self._told.clear()

    async def _load(self, name: str, source: ModelSource) -> bool:
        try:
            try:
                folder = await asyncio.to_thread(self._resolve, source)
            except OSError as error:
                raise explain_os_error(error) or InfraError(str(error), where=f"serving: adapter {source}") from None
            await self._engine.load_adapter(name, folder)
            await self._try_out(name, source)
        except RaymillError as error:
            if isinstance(error, UserError):
                self._refused[name] = (source, error)
            await self._tell(name, error)
            return False
        self._told.pop(name, None)
        self.held[name] = source
        return True

    async def _tell(self, name: str, error: RaymillError) -> None:
        """Once; a reason that goes on is no news."""
        if self._told.get(name) != str(error):
            self._told[name] = str(error)
            await self._refuse(name, error)

    async def _try_out(self, name: str, source: ModelSource) -> None:
        try:
            answers, said = await self._engine.first_answer(name, ADAPTER_TIMEOUT_S)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise InfraError(f"its first request failed: {error}", where=f"serving: adapter {source}") from None
        if not answers:
            await self._engine.unload_adapter(name)
            raise UserError(f"vLLM fails at the adapter's first request: {said}", where=f"serving: adapter {source}")
