"""Train and validation by a stable hash of what a document says: the same text always falls on the same side."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.curate.clusters import Candidate


def split(kept: Sequence[Candidate], fraction: float) -> dict[str, str]:
    """``train`` or ``validation`` for each id.

    A fraction above zero gives at least one validation document, and one always trains, where there are two or more:
    the one whose hash is lowest (highest) is moved.
    """
    limit = int(fraction * (1 << 64))
    placed = {each.id: "validation" if position(each) < limit else "train" for each in kept}
    if len(kept) > 1 and fraction > 0:
        ordered = sorted(kept, key=lambda each: (position(each), each.id))
        placed[ordered[0].id] = "validation"
        placed[ordered[-1].id] = "train"
    return placed


def position(document: Candidate) -> int:
    """The place of a document's content between 0 and 2^64."""
    return int.from_bytes(document.content[:8], "big")
