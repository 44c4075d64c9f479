"""Which examples are used, in which order, and which are held out: by stable hashes, not by where they stood."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import xxhash

from cluster.errors import UserError
from pipelines.finetune.examples.records import Example

E = TypeVar("E", bound=Example)


def choose(examples: Iterable[E], limit: int | None = None) -> list[E]:
    """Every different example once, in the order of a stable hash, at most ``limit``; a smaller limit gives a part."""
    ordered = sorted(examples, key=lambda each: (stable_hash(each.opening), each.opening, repr(each)))
    return list(dict.fromkeys(ordered))[:limit]  # of equal ones the first place, by name, is kept


def subset(examples: Sequence[E], size: float | int | None) -> list[E]:
    """The first so many of :func:`choose`'s order: a number of examples, or a share of them below 1."""
    if size is None:
        return list(examples)
    count = max(round(size * len(examples)), 1) if size < 1 else int(size)
    return list(examples[:count])


def split(examples: Sequence[E], validation_fraction: float, where: str) -> tuple[list[E], list[E]]:
    """Training and validation examples. A prompt is wholly on one side, decided by its hash; neither side is empty.

    Raises:
        UserError: there are fewer than two different prompts.
    """
    openings = sorted({each.opening for each in examples}, key=lambda text: (stable_hash(text, seed=1), text))
    if len(openings) < 2:
        raise UserError(
            f"{len(openings)} different prompts are too few to train and validate on",
            where=where,
            next_step="give more examples; with docs-pairs add documentation with docstrings to the corpus",
        )
    border = validation_fraction * 2**64
    held_out = {text for text in openings if stable_hash(text, seed=1) < border} or {openings[0]}
    if len(held_out) == len(openings):
        held_out = {openings[0]}
    train = [each for each in examples if each.opening not in held_out]
    return train, [each for each in examples if each.opening in held_out]


def stable_hash(text: str, seed: int = 0) -> int:
    """64 bits of a text, the same everywhere."""
    return xxhash.xxh64_intdigest(text.encode("utf-8", "surrogatepass"), seed=seed)
