"""Which engines answer, from what their replicas announce: plain data with an injected clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from serving.engines.announcement import Announcement

SILENCE_S = 30.0
"""A replica not heard of for so long is gone; replicas announce themselves every other second."""

QUIET_S = 3.0
"""One that Serve does not know any more is gone when it has been quiet for longer than between two announcements."""


@dataclass(frozen=True)
class Inherited:
    """An address that gateways knew before the controller was killed; its replica will announce itself again.

    Attributes:
        variants: variant -> the model name that it asked this address for.
    """

    address: str
    variants: Mapping[str, str]


class Sightings:
    """Announced replicas, each with when it was heard of last."""

    def __init__(self) -> None:
        self._announced: dict[str, tuple[Announcement, float]] = {}
        self._inherited: dict[str, tuple[Inherited, float]] = {}

    def announce(self, announcement: Announcement, now: float) -> bool:
        """A replica answers (still); whether that changes what gateways are to know."""
        known = self._announced.get(announcement.replica)
        self._announced[announcement.replica] = (announcement, now)
        inherited = self._inherited.pop(announcement.address, None)
        return inherited is not None or known is None or _routed(known[0]) != _routed(announcement)

    def inherit(self, addresses: Iterable[Inherited], now: float) -> None:
        """Take over what gateways knew."""
        known = {each.address for each, _ in self._announced.values()}
        for each in addresses:
            if each.address not in known:
                self._inherited[each.address] = (each, now)

    def withdraw(self, replica: str, address: str) -> bool:
        """A replica's engine does not answer any more; whether it was known, or its address taken over."""
        known, inherited = self._announced.pop(replica, None), self._inherited.pop(address, None)
        return known is not None or inherited is not None

    def forget_silent(self, now: float) -> bool:
        """Drop what has not been heard of; whether there was any."""
        limit = now - SILENCE_S
        silent = [name for name, (_, heard) in self._announced.items() if heard < limit]
        stale = [address for address, (_, heard) in self._inherited.items() if heard < limit]
        for name in silent:
            del self._announced[name]
        for address in stale:
            del self._inherited[address]
        return bool(silent or stale)

    def forget_dead(self, alive: Collection[str], now: float) -> bool:
        """Drop replicas that are not among ``alive`` and say nothing any more; whether there was any."""
        limit = now - QUIET_S
        dead = [name for name, (_, heard) in self._announced.items() if name not in alive and heard < limit]
        for name in dead:
            del self._announced[name]
        return bool(dead)

    def all(self) -> tuple[Announcement, ...]:
        """Every replica that answers, in the order of their starts."""
        return tuple(sorted((each for each, _ in self._announced.values()), key=lambda each: each.started))

    def of(self, engine: str) -> tuple[Announcement, ...]:
        """The replicas of one engine."""
        return tuple(each for each in self.all() if each.engine == engine)

    def serving(self, engine: str, model: str) -> tuple[str, ...]:
        """Addresses of an engine's replicas that answer for a model name."""
        return tuple(each.address for each in self.of(engine) if model in each.models)

    def inherited(self, variant: str, model: str) -> tuple[str, ...]:
        """Addresses taken over that answered a variant by this model name."""
        return tuple(each.address for each, _ in self._inherited.values() if each.variants.get(variant) == model)

    def engine_at(self, address: str) -> str:
        """The engine whose replica answers at an address; empty where none does."""
        return next((each.engine for each, _ in self._announced.values() if each.address == address), "")


def _routed(announcement: Announcement) -> tuple[str, frozenset[str]]:
    return announcement.address, frozenset(announcement.models)
