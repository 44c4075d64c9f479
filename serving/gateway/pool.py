"""Which engine of a variant gets the next request, and which are out of rotation; plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager


class EnginePool:
    """Engines by variant, with the number of requests each is working on."""

    def __init__(self) -> None:
        self.addresses: Mapping[str, tuple[str, ...]] = {}
        self.ejected: set[str] = set()
        self._ongoing: Counter[str] = Counter()
        self._turn = 0

    def update(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """Replace the addresses; one that is gone is forgotten."""
        self.addresses = addresses
        self.ejected &= {each for own in addresses.values() for each in own}

    def pick(self, variant: str, tried: Collection[str] = ()) -> str | None:
        """The engine in rotation with the fewest requests, equals in turn; None where there is no untried one."""
        ready = [each for each in self.addresses.get(variant, ()) if each not in self.ejected and each not in tried]
        if not ready:
            return None
        self._turn += 1
        start = self._turn % len(ready)
        return min(ready[start:] + ready[:start], key=lambda address: self._ongoing[address])

    def eject(self, address: str) -> None:
        """Take an engine out of rotation until it is restored or replaced."""
        self.ejected.add(address)

    def restore(self, address: str) -> None:
        """Put an engine back."""
        self.ejected.discard(address)

    @contextmanager
    def working(self, address: str) -> Iterator[None]:
        """Count a request to an engine for as long as it lasts."""
        self._ongoing[address] += 1
        try:
            yield
        finally:
            self._ongoing[address] -= 1
            if not self._ongoing[address]:
                del self._ongoing[address]
