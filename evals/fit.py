"""Overfitting and underfitting: a model's loss on text it learned from beside its loss on text it did not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from evals.heldout import HeldOut

Verdict = Literal["overfitting", "underfitting", "neither", "unknown"]

GAP_SHARE = 0.05
"""Held-out text may cost so much more than training text before it is called overfitting."""

UNIGRAM_SHARE = 0.95
"""A model that needs so much of the bits of mere word frequencies, on its own training text, has learned little."""


@dataclass(frozen=True)
class Fit:
    """What the two losses say, in bits a byte.

    Attributes:
        gap: held-out minus training text; ``gap_interval`` is its 95 % interval over documents.
        unigram: what word frequencies alone need on the training text.
    """

    verdict: Verdict
    sentence: str
    train: float | None = None
    heldout: float | None = None
    unigram: float | None = None
    gap: float | None = None
    gap_interval: tuple[float, float] | None = None

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def judge_fit(heldout: HeldOut) -> Fit:
    """Call overfitting or underfitting where the documents show it.

    Overfitting: the whole 95 % interval of the gap is above GAP_SHARE of the training loss. Both samples of documents
    are drawn anew in the bootstrap, each by itself; every document weighs its bytes.
    """
    train = heldout.train
    if train is None or not train.texts or not heldout.texts:
        return Fit("unknown", "Whether it overfits is not known: its loss on training text was not measured.")
    own, held, unigram = train.bits_per_byte, heldout.bits_per_byte, train.unigram_bits_per_byte
    gap, bounds = _gap(train, heldout)
    figures = (own, held, unigram, gap, bounds)
    numbers = f"{own:.3f} bits a byte on training text, {held:.3f} on held-out text"
    if own >= UNIGRAM_SHARE * unigram:
        said = f"Underfitting: {numbers}; word frequencies alone need {unigram:.3f}. Train longer, or a larger model."
        return Fit("underfitting", said, *figures)
    if bounds is None:
        return Fit("unknown", f"Too few documents to tell overfitting: {numbers}.", *figures)
    if bounds[0] > GAP_SHARE * own:
        said = (
            f"Overfitting: {numbers} (the gap is {bounds[0]:.3f} to {bounds[1]:.3f}). More or more varied text helps."
        )
        return Fit("overfitting", said, *figures)
    said = f"No overfitting shown: {numbers} (the gap is {bounds[0]:.3f} to {bounds[1]:.3f})."
    return Fit("neither", said, *figures)


def _gap(train: HeldOut, heldout: HeldOut) -> tuple[float, tuple[float, float] | None]:
    from evals.decide.bootstrap import SMALLEST_STRATUM, paired_bootstrap

    sides = [("heldout", heldout, 1.0), ("train", train, -1.0)]
    difference = heldout.bits_per_byte - train.bits_per_byte
    if min(len(side.texts) for _, side, _ in sides) < SMALLEST_STRATUM:
        return difference, None
    found = paired_bootstrap(
        [sign * loss.bits_per_byte for _, side, sign in sides for loss in side.texts],
        [name for name, side, _ in sides for _ in side.texts],
        [loss.text_bytes / side.text_bytes for _, side, _ in sides for loss in side.texts],
    )
    return difference, found.interval()
