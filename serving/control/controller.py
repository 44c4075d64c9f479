"""The serving deployment's one source of truth: which engines answer, with which weights. Gateways are told by it.

An actor without CPUs. Replicas announce themselves to it again and again, so it also learns of the death of a
replica that could not say goodbye.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.errors import InfraError, RaymillError, UserError
from serving.gateway.table import RouteTable, VariantRoute
from serving.split.assignment import bucket_of

SILENCE_S = 30.0
"""An engine not heard of for so long is gone; replicas announce with every health check, every few seconds."""


@dataclass(frozen=True)
class Announcement:
    """One engine that answers.

    Attributes:
        replica: the Serve replica that supervises it.
        engine: the engine specification's name.
        address: its base URL.
        node: the Ray node it runs on.
        pid: the vLLM server's process id there; ``pids`` are all processes that came with it.
        started: seconds since the epoch.
        log: the file with its output, on that node.
    """

    replica: str
    engine: str
    address: str
    node: str
    pid: int
    pids: tuple[int, ...]
    started: float
    log: str


@dataclass(frozen=True)
class Snapshot:
    """What the controller knows: engines that answer, those that were refused, and the weights."""

    engines: tuple[Announcement, ...]
    refusals: Mapping[str, RaymillError]
    weights: Mapping[str, float]
    version: int


class Controller:
    """State of one deployment; run as an asyncio Ray actor.

    Args:
        table: the first route table, without addresses.
        weights: variant -> weight.
        variants: engine name -> the variants that it answers for.
    """

    def __init__(
        self, table: RouteTable, weights: Mapping[str, float], variants: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._table = table
        self._weights = dict(weights)
        self._variants = dict(variants)
        self._gateways: list[Any] = []
        self._engines: dict[str, tuple[Announcement, float]] = {}
        self._refusals: dict[str, RaymillError] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def add_gateway(self, gateway: Any) -> None:
        """Tell a gateway of every change from now on."""
        self._gateways.append(gateway)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        await gateway.update.remote(self._table)

    async def announce(self, announcement: Announcement) -> None:
        """A replica's engine answers (still)."""
        known = self._engines.get(announcement.replica)
        self._engines[announcement.replica] = (announcement, time.monotonic())
        if known is None or known[0] != announcement:
            await self._push()

    async def withdraw(self, replica: str) -> None:
        """A replica's engine does not answer any more."""
        if self._engines.pop(replica, None):
            await self._push()

    async def refuse(self, engine: str, error: RaymillError) -> None:
        """An engine did not come up, and why."""
        self._refusals.setdefault(engine, error)

    async def set_weights(self, weights: Mapping[str, float]) -> float:
        """Change the split on every gateway; returns the share of users, 0 … 1, that moved.

        Raises:
            UserError: an unknown variant, a missing one, or weights that are not a split.
            InfraError: no gateway took them.
        """
        if set(weights) != set(self._weights):
            unknown, missing = set(weights) - set(self._weights), set(self._weights) - set(weights)
            problem = f"unknown: {', '.join(sorted(unknown))}" if unknown else f"missing: {', '.join(sorted(missing))}"
            raise UserError(
                f"weights must name every variant ({problem})",
                where="weights",
                next_step=f"the variants are {', '.join(self._weights)}",
            )
        before = self._table.allocation
        after = before.reweighted(weights)
        self._weights = dict(weights)
        self._table = replace(self._table, allocation=after)
        await self._push()
        moved = sum(old != new for old, new in zip(before.owners, after.owners, strict=True))
        return moved / len(after.owners)

    async def variant_of(self, key: str) -> str:
        """The variant that a user key gets now."""
        return self._table.allocation.owners[bucket_of(self._table.experiment, key)]

    async def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        engines = tuple(announcement for announcement, _ in self._engines.values())
        return Snapshot(engines, dict(self._refusals), dict(self._weights), self._table.allocation.version)

    async def _push(self) -> None:
        addresses: dict[str, list[str]] = {name: [] for name in self._weights}
        for announcement, _ in self._engines.values():
            for variant in self._variants[announcement.engine]:
                addresses[variant].append(announcement.address)
        variants = {variant: VariantRoute(variant, tuple(own)) for variant, own in addresses.items()}
        self._table = replace(self._table, variants=variants, serial=self._table.serial + 1)
        told = await asyncio.gather(
            *(gateway.update.remote(self._table) for gateway in self._gateways), return_exceptions=True
        )
        failures = [str(outcome) for outcome in told if isinstance(outcome, BaseException)]
        if failures and len(failures) == len(told):
            raise InfraError("no gateway can be told of the change", where="serving", attempts=tuple(failures))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_S / 4)
            limit = time.monotonic() - SILENCE_S
            for replica in [name for name, (_, heard) in self._engines.items() if heard < limit]:
                await self.withdraw(replica)
