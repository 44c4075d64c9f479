"""Which engine of a variant gets the next request, and which are out of rotation; plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping


class EnginePool:
    """Engines by variant, with the number of requests each is working on."""

    def __init__(self) -> None:
        self.addresses: Mapping[str, tuple[str, ...]] = {}
        self.ejected: set[str] = set()
        self.ongoing: Counter[str] = Counter()
        self._turn = 0

    def update(self, addresses: Mapping[str, tuple[str, ...]]) -> set[str]:
        """Replace the addresses; returns those that are gone, which are forgotten."""
        known = {each for own in addresses.values() for each in own}
        gone = {each for own in self.addresses.values() for each in own} - known
        self.addresses = addresses
        self.ejected &= known
        return gone

    def pick(self, variant: str, tried: Collection[str] = (), *, desperate: bool = False) -> str | None:
        """The engine in rotation with the fewest requests, equals in turn; None where there is no untried one.

        Args:
            desperate: also take one that is out of rotation.
        """
        ready = [
            each
            for each in self.addresses.get(variant, ())
            if (desperate or each not in self.ejected) and each not in tried
        ]
        if len(ready) < 2:
            return ready[0] if ready else None
        self._turn += 1
        start = self._turn % len(ready)
        return min(ready[start:] + ready[:start], key=self.ongoing.__getitem__)

    def has(self, variant: str) -> bool:
        """Whether any engine of the variant is in rotation."""
        return any(each not in self.ejected for each in self.addresses.get(variant, ()))

    def eject(self, address: str) -> bool:
        """Take an engine out of rotation until it is restored or replaced; returns whether it was in it."""
        if address in self.ejected or not any(address in own for own in self.addresses.values()):
            return False
        self.ejected.add(address)
        return True

    def restore(self, address: str) -> None:
        """Put an engine back."""
        self.ejected.discard(address)

    def begin(self, address: str) -> None:
        """Count a request to an engine, until :meth:`end`."""
        self.ongoing[address] += 1

    def end(self, address: str) -> None:
        """A request to an engine is over."""
        self.ongoing[address] -= 1
        if self.ongoing[address] <= 0:
            del self.ongoing[address]
