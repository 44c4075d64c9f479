"""Train and validation by a stable hash of what a document says: the same text always falls on the same side."""

from __future__ import annotations

TRAIN, VALIDATION = SPLITS = ("train", "validation")


def position(content: bytes) -> int:
    """The place of a document's content, by its hash, between 0 and 2^64."""
    return int.from_bytes(content[:8], "big")


def side(content: bytes, fraction: float) -> str:
    """Where a document goes by itself. That neither side is empty only the whole corpus can tell."""
    return VALIDATION if position(content) < int(fraction * (1 << 64)) else TRAIN
