"""Time, tokens and money by task."""

from __future__ import annotations

import pytest

from evals.usage import Meter, PricesConfig


def test_a_call_is_shared_out_by_tokens() -> None:
    meter = Meter()
    with meter.call([("a", 30), ("a", 30), ("b", 20)]):
        pass
    meter.seconds = {"a": 6.0, "b": 2.0}
    meter.wrote("b", 5)
    account = meter.account(
        {"s": ["a"], "t": ["b"]},
        12.0,
        2,
        PricesConfig(worker_hour=3.6, million_input_tokens=10, million_output_tokens=100),
    )
    assert account["tasks"]["s"] == {
        "requests": 2, "input_tokens": 60, "output_tokens": 0, "seconds": 6.0, "cost": pytest.approx(0.0126),
    }  # fmt: skip
    assert account["tasks"]["t"]["cost"] == pytest.approx(2 * 2 / 1000 + 20 / 1e5 + 5 / 1e4)
    assert account["cost"] == pytest.approx(0.024 + 80 / 1e5 + 5 / 1e4)


def test_seconds_follow_the_tokens() -> None:
    meter = Meter()
    with meter.call([("a", 75), ("b", 25)]):
        sum(range(100_000))
    assert meter.seconds["a"] == pytest.approx(3 * meter.seconds["b"])
    with pytest.raises(ValueError, match="stop"), meter.call([("a", 1)]):
        raise ValueError("stop")
    assert meter.requests == {"a": 2, "b": 1}
