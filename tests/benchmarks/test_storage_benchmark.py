"""The storage benchmark: both sides move the same bytes, and it notices where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.storage import RESULTS, Sides, measure, prepare
from cluster.store import Store


def test_both_sides_move_the_same_bytes(s3_store: Store, s3_endpoint: str, tmp_path: Path) -> None:
    results = [measure(sides, rounds=2) for sides in prepare(tmp_path, s3_endpoint, 200_000)]
    assert tuple(result["name"] for result in results) == RESULTS
    for result in results:
        assert result["ratio"] > 0 and result["ours"] > 0 and result["peer_value"] > 0
        assert result["unit"] == "MB/s" and result["bar"] == 0.9


def test_a_ratio_is_the_median_of_the_rounds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides take turns in going first; ours takes 1, 2 and 4 seconds, the peer's 2 each time."""
    seconds = {"ours": iter([1.0, 2.0, 4.0]), "theirs": iter([2.0, 2.0, 2.0])}
    order: list[str] = []

    def timed(side: Callable[[], None]) -> float:
        side()
        return next(seconds[order[-1]])

    monkeypatch.setattr("benchmarks.storage._timed", timed)
    sides = Sides("x", "p", 8_000_000, lambda: order.append("ours"), lambda: order.append("theirs"), lambda: None)
    result = measure(sides, rounds=3)
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (result["ratio"], result["middle_half"]) == (1.0, [0.5, 2.0])
    assert (result["ours"], result["peer_value"]) == (4.0, 4.0)


def test_other_bytes_are_noticed(s3_store: Store, s3_endpoint: str, tmp_path: Path) -> None:
    sides = prepare(tmp_path, s3_endpoint, 2000, ("download",))[0]
    sides.ours(), sides.theirs()
    sides.check()
    (tmp_path / "a").write_bytes(b"other")
    with pytest.raises(AssertionError):
        sides.check()
