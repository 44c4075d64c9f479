"""What is told of adapters that cannot be used, and when again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.errors import InfraError, RaymillError, UserError
from serving.control.state import ModelSource
from serving.engines.adapters import AdapterShelf

WANTED = {"lora:bad": ModelSource(folder="/nowhere"), "lora:away": ModelSource(artifact="away")}


class Folders:
    """Resolves nothing: one adapter is not there, and the store of the other one is away."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, source: ModelSource) -> Path:
        self.asked.append(str(source))
        if source.artifact:
            raise InfraError("the store is away", where="here")
        raise UserError("no adapter is there", where="here")


def test_a_reason_is_told_once_and_again_to_one_who_does_not_know_it_without_another_try() -> None:
    told: list[str] = []
    engine: Any = None  # no adapter comes so far
    folders = Folders()

    async def refuse(name: str, error: RaymillError) -> None:
        told.append(name)

    async def scenario() -> None:
        shelf = AdapterShelf(engine, folders, refuse)
        for _ in range(3):
            await shelf.follow(WANTED)
        assert told == ["lora:bad", "lora:away"]
        shelf.tell_again()
        for _ in range(3):
            await shelf.follow(WANTED)
        assert told == ["lora:bad", "lora:away"] * 2
        assert folders.asked.count("/nowhere") == 1 and folders.asked.count("away") == 6
        shelf.tell_again()
        await shelf.follow({})  # neither is wanted any more
        assert told == ["lora:bad", "lora:away"] * 2
        shelf.try_again()
        await shelf.follow(WANTED)
        assert folders.asked.count("/nowhere") == 2

    asyncio.run(scenario())
