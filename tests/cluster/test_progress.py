"""Progress in a log is plain lines, on a terminal one live line; tables line up."""

from __future__ import annotations

import io

import pytest

from cluster import progress as module
from cluster.progress import Progress, duration, table


class Clock:
    """A clock that tests advance."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_lines_carry_rate_eta_and_figures(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream, live=False).track("curate") as tracker, tracker.step("filter", 1000, "documents"):
        clock.now += 10
        tracker.update(250, kept=200, dropped=50)
        tracker.update(260)  # too soon after the last line
        clock.now += 10
        tracker.update(advance=240)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "[curate] filter …",
        "[curate] filter  250/1,000 documents 25 %  25/s  ETA 30s  kept=200  dropped=50",
        "[curate] filter  500/1,000 documents 50 %  25/s  ETA 20s  kept=200  dropped=50",
        "[curate] filter  500 documents  25/s  in 20s  kept=200  dropped=50",
    ]
    assert "\x1b" not in stream.getvalue()


def test_live_line_is_rewritten_and_messages_stay(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream, live=True)
    with progress.track("train") as tracker, tracker.step("steps", 10):
        clock.now += 1
        tracker.update(5, loss=1.25)
        tracker.note("checkpoint written")
    text = stream.getvalue()
    assert "\r\x1b[2K" in text
    assert "[train] checkpoint written\n" in text
    assert "loss=1.25" in text
    assert text.count("\n") == 2  # the message and the step's last line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4s"), (9.96, "10.0s"), (12.4, "12s"), (185, "3:05"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_table_sets_numbers_to_the_right() -> None:
    rows = [{"name": "a", "n": 5, "x": 0.5}, {"name": "longer", "n": 1234, "x": None}]
    assert table(rows).splitlines() == [
        "name        n    x",
        "------  -----  ---",
        "a           5  0.5",
        "longer  1,234",
    ]
