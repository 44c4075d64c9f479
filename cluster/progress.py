"""One surface that says how far the work is: a live line on a terminal, plain lines in a log.

A stage gets a :class:`Tracker`. It names the steps it goes through (:meth:`Tracker.step`), says how much is done,
and adds whatever figures matter (loss, kept, dropped). Rates and the time left are worked out here.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

PLAIN_INTERVAL_S = 5.0
LIVE_INTERVAL_S = 0.2


class Progress:
    """Where progress goes.

    Args:
        stream: standard error by default, so that standard output stays clean for results.
        live: one rewritten line instead of lines in sequence; by default on where the stream is a terminal.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty() if live is None else live
        self._lock = threading.Lock()
        self._open_line = False

    def say(self, text: str) -> None:
        """Print a whole line, above the live one."""
        with self._lock:
            self._clear()
            print(text, file=self.stream, flush=True)

    def show(self, text: str) -> None:
        """Print a state: it replaces the live line on a terminal and is one more line elsewhere."""
        with self._lock:
            if not self.live:
                print(text, file=self.stream, flush=True)
                return
            import shutil

            width = shutil.get_terminal_size().columns
            self._clear()
            self.stream.write(text[: width - 1])
            self.stream.flush()
            self._open_line = True

    def _clear(self) -> None:
        if self._open_line:
            self.stream.write("\r\x1b[2K")
            self._open_line = False

    @contextmanager
    def track(self, name: str) -> Iterator[Tracker]:
        """A tracker for one stage; the live line is gone when it ends."""
        try:
            yield Tracker(self, name)
        finally:
            with self._lock:
                self._clear()
                self.stream.flush()


class Tracker:
    """How far one stage is. Safe to call from several threads; calls are cheap, and printing is rate-limited."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._begin("", None, "")

    def _begin(self, label: str, total: float | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0.0
        self._values: dict[str, Any] = {}
        self._started = time.monotonic()
        self._shown = self._started if not self._progress.live else 0.0

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Tracker]:
        """A named part of the stage, with its size where it is known; says at its end how long it took."""
        self._begin(label, total, unit)
        self._progress.show(f"[{self._name}] {label} …")
        yield self
        self._print(final=True)

    def update(self, done: float | None = None, *, advance: float = 0.0, **values: Any) -> None:
        """Say what is done so far (or how much more), with figures to show beside it."""
        self._done = self._done + advance if done is None else done
        self._values.update(values)
        interval = LIVE_INTERVAL_S if self._progress.live else PLAIN_INTERVAL_S
        now = time.monotonic()
        if now - self._shown >= interval:
            self._shown = now
            self._print()

    def note(self, text: str) -> None:
        """Say something that should stay in the log."""
        self._progress.say(f"[{self._name}] {text}")

    def _print(self, final: bool = False) -> None:
        seconds = time.monotonic() - self._started
        parts = [f"[{self._name}] {self._label}"]
        if self._total and not final:
            parts.append(f"{self._done:,.0f}/{self._total:,.0f} {self._unit} {100 * self._done / self._total:.0f} %")
        elif self._done:
            parts.append(f"{self._done:,.0f} {self._unit}")
        if self._done and seconds > 0:
            parts.append(f"{_number(self._done / seconds)}/s")
        if self._total and self._done and not final:
            parts.append(f"ETA {duration(seconds * max(self._total - self._done, 0.0) / self._done)}")
        if final:
            parts.append(f"in {duration(seconds)}")
        parts.extend(f"{name}={_number(value)}" for name, value in self._values.items())
        (self._progress.say if final else self._progress.show)("  ".join(part.strip() for part in parts))


def duration(seconds: float) -> str:
    """Seconds as a person writes them: ``0.4s``, ``12s``, ``3:05``, ``1:02:03``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as aligned text; numbers are set to the right. Missing values are left empty."""
    names = columns or (list(rows[0]) if rows else [])
    texts = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in texts)) if texts else len(name) for i, name in enumerate(names)]
    right = [
        any(row.get(name) is not None for row in rows)
        and all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        for name in names
    ]

    def render(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, right, strict=True)
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in pairs).rstrip()

    return "\n".join([render(names), render(["-" * width for width in widths]), *map(render, texts)])


def _cell(value: Any) -> str:
    return "" if value is None else _number(value)
