"""Overfitting and underfitting are called where the documents show them, and only there."""

from __future__ import annotations

import math
import random

import pytest

from evals.fit import judge_fit
from evals.heldout import HeldOut, TextLoss


def texts(bits: float, spread: float, count: int, seed: int, unigram: float = 4.0) -> HeldOut:
    """Documents of some hundred bytes whose loss is about so many bits a byte."""
    chance = random.Random(seed)
    losses = []
    for number in range(count):
        size = chance.randrange(200, 900)
        loss = -chance.gauss(bits, spread) * size * math.log(2)
        losses.append(TextLoss(f"{seed}-{number}", size // 4, size, loss, "Once"))
    size = sum(each.text_bytes for each in losses)
    total = math.fsum(each.log_likelihood for each in losses)
    return HeldOut(count, size // 4, size, total, -unigram * size * math.log(2), tuple(losses))


def with_train(held: HeldOut, train: HeldOut | None) -> HeldOut:
    from dataclasses import replace

    return replace(held, train=train)


@pytest.mark.parametrize(
    ("held", "train", "verdict"),
    [
        (texts(2.0, 0.2, 60, 1), texts(1.0, 0.2, 60, 2), "overfitting"),
        (texts(2.0, 0.2, 60, 1), texts(2.0, 0.2, 60, 2), "neither"),
        (texts(2.05, 0.2, 60, 1), texts(2.0, 0.2, 60, 2), "neither"),
        (texts(3.0, 2.0, 12, 1), texts(2.0, 2.0, 12, 2), "neither"),
        (texts(4.1, 0.2, 60, 1), texts(3.9, 0.2, 60, 2), "underfitting"),
        (texts(2.0, 0.2, 4, 1), texts(1.0, 0.2, 60, 2), "unknown"),
        (texts(2.0, 0.2, 60, 1), None, "unknown"),
    ],
)
def test_the_verdict(held: HeldOut, train: HeldOut | None, verdict: str) -> None:
    assert judge_fit(with_train(held, train)).verdict == verdict


def test_the_gap_is_that_of_the_whole_texts() -> None:
    held, train = texts(2.0, 0.3, 50, 3), texts(1.5, 0.3, 80, 4)
    fit = judge_fit(with_train(held, train))
    assert fit.gap == pytest.approx(held.bits_per_byte - train.bits_per_byte)
    assert fit.gap_interval is not None
    low, high = fit.gap_interval
    assert low < fit.gap < high
    assert f"{train.bits_per_byte:.3f} bits a byte on training text" in fit.sentence


def test_a_model_no_better_on_training_text_is_called_overfitted_as_rarely_as_promised() -> None:
    called = sum(
        judge_fit(with_train(texts(2.0, 0.5, 30, seed), texts(2.0, 0.5, 30, 1000 + seed))).verdict == "overfitting"
        for seed in range(80)
    )
    assert called <= 4


def test_rows_weigh_their_bytes() -> None:
    held = texts(2.0, 0.3, 20, 5)
    rows = [loss.row(number, "heldout") for number, loss in enumerate(held.texts)]
    mean = sum(row["metrics"]["bits_per_byte"] * row["weight"] for row in rows) / sum(row["weight"] for row in rows)
    assert mean == pytest.approx(held.bits_per_byte)
