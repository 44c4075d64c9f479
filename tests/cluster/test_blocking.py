"""An asynchronous source in ordinary code: its order, its errors, and Ctrl-C at every moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from cluster.blocking import iterate

WAITING_S = 0.1


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises."""


@contextmanager
def ctrl_c() -> Iterator[None]:
    """The first SIGINT raises Interrupted, a later one nothing."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        sys.settrace(None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise Interrupted

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class Connection:
    """Two texts, then silence; as with a real one, closing it takes more than one step."""

    def __init__(self) -> None:
        self.closed = False

    async def texts(self) -> AsyncGenerator[str, None]:
        try:
            yield "first"
            yield "second"
            asyncio.get_running_loop().call_later(WAITING_S, os.kill, os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            self.closed = True


def interrupted_after(lines: int) -> bool:
    """Read a connection until Ctrl-C, so many lines of Python after its first text; False where it waits before."""
    left = lines

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= event == "line"  # at a call or a return a tracer's exception skips what a signal's does not
        if left == 0:
            signal.raise_signal(signal.SIGINT)
        return trace

    connection = Connection()
    try:
        with ctrl_c(), pytest.raises(Interrupted):
            for text in iterate(connection.texts()):
                if text == "first":
                    sys.settrace(trace)
    finally:
        sys.settrace(None)
    assert connection.closed
    return left <= 0


def test_an_interrupt_at_any_moment_closes_the_source_and_is_what_the_reader_sees() -> None:
    before = threading.active_count()
    lines = 1
    while interrupted_after(lines):
        lines += 1
        assert threading.active_count() == before
    assert lines > 20


def test_all_is_given_in_order() -> None:
    async def count() -> AsyncGenerator[int, None]:
        for number in range(5):
            await asyncio.sleep(0)
            yield number

    assert list(iterate(count())) == [0, 1, 2, 3, 4]


def test_an_error_of_the_source_is_the_readers() -> None:
    async def break_off() -> AsyncGenerator[int, None]:
        yield 1
        raise ConnectionError("cut off")

    source = iterate(break_off())
    assert next(source) == 1
    with pytest.raises(ConnectionError, match="cut off"):
        next(source)


def test_a_reader_that_stops_closes_the_source() -> None:
    connection = Connection()
    for _ in iterate(connection.texts()):
        break
    assert connection.closed
