"""One timer for everything on an event loop that may wait for the end of the present interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pulse:
    """Beats at whole multiples of an interval, while somebody waits for it.

    Streams that rest between their events all wake at the same beat: one timer and one turn of the loop for all of
    them, where a timer each would wake the process for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._waiting: list[Callable[[], None]] = []

    def end(self, seconds: float) -> float:
        """When the interval of so many seconds ends that it is now, on the loop's clock."""
        return (self._loop.time() // seconds + 1) * seconds

    def wait(self, until: float, wake: Callable[[], None]) -> None:
        """Call ``wake`` at the next beat: at ``until``, or sooner where others wait for a sooner one."""
        self._waiting.append(wake)
        if self._timer is not None and self._until <= until:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._until, self._timer = until, self._loop.call_at(until, self._beat)

    def _beat(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
