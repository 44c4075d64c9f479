"""An asynchronous source, read by ordinary code in which a signal may raise at any moment."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
CLOSE_SECONDS = 3.0
_END = object()


def iterate(source: AsyncGenerator[Item, None]) -> Iterator[Item]:
    """What a source gives, one after the other; it is closed where its reader stops early.

    The event loop has a thread of its own. Ctrl-C raises in the main thread, at any instruction; raised between two
    steps of an event loop it leaves callbacks behind that stop the loop's next run, and so the closing of the source,
    before it is done. Nor does the main thread take a lock of Python's that an interrupt could leave locked.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    answers: queue.SimpleQueue[asyncio.Task[Any]] = queue.SimpleQueue()
    asked: list[asyncio.Task[Any]] = []  # a loop itself does not keep its tasks alive

    def ask() -> None:
        asked[:] = [loop.create_task(_next(source))]
        asked[0].add_done_callback(answers.put)

    thread = threading.Thread(target=_serve, args=(loop, stop), name="asynchronous source", daemon=True)
    try:
        thread.start()
        while True:
            loop.call_soon_threadsafe(ask)
            item = answers.get().result()
            if item is _END:
                return
            yield item
    finally:
        loop.call_soon_threadsafe(stop.set)
        if thread.is_alive():
            thread.join(CLOSE_SECONDS)


async def _next(source: AsyncGenerator[Any, None]) -> Any:
    return await anext(source, _END)


def _serve(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # leaving it closes what is still open
        runner.run(stop.wait())
