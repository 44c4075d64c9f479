"""The training loop and a peer's, in turns, in one process: what else the machine does meets both alike."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from cluster.store import Store
from pipelines.train.group import Group
from pipelines.train.journal import Journal
from pipelines.train.keeper import Keeper

SETTLE = 3
"""Steps of each side before the first turn counts."""


class _Enough(Exception):
    pass


class Turns(Keeper):
    """Lets the peer take its turn after each of ours, and ends the run after the last.

    Args:
        peer: takes a turn; its seconds.
        begins: called when a turn of ours begins.
    """

    def __init__(
        self,
        store: Store,
        turns: int,
        steps: int,
        peer: Callable[[], float],
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(store, "checkpoints", (), Group(), Journal(store, "journal"), 2)
        self.ours_s: list[float] = []
        self.peers_s: list[float] = []
        self._turns, self._steps, self._peer, self._begins, self._began = turns, steps, peer, begins, 0.0

    def tell(self, step: int) -> None:
        """A step of ours is done."""
        super().tell(step)
        if step < SETTLE or (step - SETTLE) % self._steps:
            return
        if step > SETTLE:
            self.ours_s.append(time.perf_counter() - self._began)
            self.peers_s.append(self._peer())
        if len(self.ours_s) == self._turns:
            raise _Enough
        self._begins()
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def until_enough(self) -> Iterator[None]:
        """Around the training that this keeper ends."""
        with contextlib.suppress(_Enough):
            yield


def most_steps(turns: int, steps: int) -> int:
    """Steps of ours in all, and one more that is never taken."""
    return SETTLE + turns * steps + 1


def compare(name: str, ours: list[float], peer: str, theirs: list[float]) -> dict[str, Any]:
    """A result: medians of both sides' rates, the median ratio of turns and the middle half of the ratios."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "name": name,
        "ours": statistics.median(ours),
        "peer": peer,
        "peer_value": statistics.median(theirs),
        "unit": "tokens/s",
        "ratio": statistics.median(ratios),
        "middle_half": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
    }
