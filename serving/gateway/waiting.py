"""A bounded number of requests at work, and a bounded queue before them; nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from serving.config import LimitsConfig
from serving.gateway.wire import Unavailable


class Places:
    """Places of one gateway, given in the order of asking. Used from one event loop.

    Attributes:
        ongoing: requests that have a place.
        waiting: variant -> requests that wait, for a place or for an engine that is being woken.
    """

    def __init__(self) -> None:
        self.ongoing = 0
        self.waiting: Counter[str] = Counter()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._most = LimitsConfig().max_ongoing
        self._arrived = asyncio.Event()

    def resize(self, most: int) -> None:
        """A new number of places; those at work beyond it finish."""
        self._most = most
        self._wake()

    async def enter(self, variant: str, limits: LimitsConfig, seconds: float) -> None:
        """Take a place, waiting for it at most ``seconds``; give it back with :meth:`leave`.

        Raises:
            Unavailable: the queue is full, or the wait was too long.
        """
        if self.ongoing < self._most and not self._queue:
            self.ongoing += 1
            return
        self.begin_wait(variant, limits)
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.leave()  # it was given just now
            elif place in self._queue:
                self._queue.remove(place)
            if isinstance(error, TimeoutError):
                message = f"no place came free within {seconds:g} s; the endpoint is busy"
                raise Unavailable(message, code="overloaded", retry_after=5) from None
            raise
        finally:
            self.end_wait(variant)

    def leave(self) -> None:
        """Give a place back."""
        self.ongoing -= 1
        self._wake()

    def begin_wait(self, variant: str, limits: LimitsConfig) -> None:
        """Count one that waits.

        Raises:
            Unavailable: too many do.
        """
        if self.waiting.total() >= limits.max_queued:
            raise Unavailable("too many requests wait already; the endpoint is busy", code="overloaded", retry_after=2)
        self.waiting[variant] += 1

    def end_wait(self, variant: str) -> None:
        """The end of :meth:`begin_wait`."""
        self.waiting[variant] -= 1
        if not self.waiting[variant]:
            del self.waiting[variant]

    def engines_changed(self) -> None:
        """Let those that wait for an engine look again."""
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def for_engine(self, variant: str, limits: LimitsConfig, there: Callable[[], bool], seconds: float) -> bool:
        """Wait, in the queue, until ``there()`` or ``seconds`` have passed; returns whether it came.

        Raises:
            Unavailable: the queue is full.
        """
        self.begin_wait(variant, limits)
        try:
            async with asyncio.timeout(seconds):
                while not there():
                    await self._arrived.wait()
        except TimeoutError:
            return False
        finally:
            self.end_wait(variant)
        return True

    def _wake(self) -> None:
        while self._queue and self.ongoing < self._most:
            place = self._queue.popleft()
            if not place.done():
                self.ongoing += 1
                place.set_result(None)
