"""A stream of server-sent events on its way from an engine to a caller: whole events, in bytes, hardly looked at."""

from __future__ import annotations

import time

from serving.gateway import wire
from serving.gateway.upstream import UpstreamAnswer

LAST_EVENT = b"data: [DONE]"
USAGE_EVENT = b'"choices":[]'
"""Marks the event that only tells the usage; within a JSON string the quotes would be escaped."""

LONGEST_EVENT_BYTES = 4 << 20


class EventStream:
    """Hands on whole events, so that a stream that breaks can still end with a readable one.

    Args:
        answer: the engine's; this closes it.
        hide_usage: leave out the usage event, which the gateway asked for and the caller did not.
        renamed: what the engine calls the model, and what callers do; see :func:`serving.gateway.wire.renamed`.

    Attributes:
        events: handed on so far.
        usage: (prompt, completion) tokens, once the engine has told.
        finished: whether the last event, or an error, was handed on; clients may hang up as soon as they have it.
        error: what the engine said in place of the rest.
        first_at, last_at: when the first and the last event came (``perf_counter``).
    """

    def __init__(self, answer: UpstreamAnswer, *, hide_usage: bool, renamed: tuple[bytes, bytes] | None = None) -> None:
        self.answer, self._hide_usage, self._renamed = answer, hide_usage, renamed
        self.events = 0
        self.usage: tuple[int, int] | None = None
        self.finished = False
        self.error: wire.EventError | None = None
        self.first_at = self.last_at = 0.0
        self._held = b""

    async def next(self) -> bytes:
        """The next whole events; nothing at the end.

        Raises:
            EngineLost: the engine broke off.
        """
        while True:
            piece = await self.answer.piece()
            if not piece:
                rest, self._held = self._held, b""
                return rest
            whole = self._whole(piece)
            if whole and (shown := self._look(whole)):
                return shown

    def rest(self, seconds: float) -> None:
        """Send the events of so long together, after those that were just sent."""
        self.answer.rest(seconds)

    def close(self) -> None:
        """Stop the generation where it is not complete."""
        self.answer.close()

    def _whole(self, piece: bytes) -> bytes:
        data = self._held + piece if self._held else piece
        self._held = b""
        if data.endswith((b"\n\n", b"\r\n\r\n")) or len(data) > LONGEST_EVENT_BYTES:
            return data
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
        if end < 4:
            end = 0
        self._held = data[end:]
        return data[:end]

    def _look(self, events: bytes) -> bytes:
        if b'"usage":{' in events:
            self.usage = wire.usage(events) or self.usage
        if self._hide_usage and USAGE_EVENT in events:
            events = b"".join(event + b"\n\n" for event in events.split(b"\n\n") if event and USAGE_EVENT not in event)
        if self._renamed:
            events = events.replace(*self._renamed)
        last = events.rstrip().endswith(LAST_EVENT)
        failed = self.error is None and (error := wire.event_error(events)) is not None
        if failed:
            self.error = error
        self.finished = self.finished or last or failed
        said = events.count(b"data: ") - last - failed
        if said > 0:
            self.events += said
            self.last_at = time.perf_counter()
            self.first_at = self.first_at or self.last_at
        return events

    @property
    def seconds_per_token(self) -> float | None:
        """Mean seconds between tokens after the first; None below two."""
        tokens = self.usage[1] if self.usage else self.events
        return (self.last_at - self.first_at) / (tokens - 1) if tokens > 1 and self.last_at > self.first_at else None
