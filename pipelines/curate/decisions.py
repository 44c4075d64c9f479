"""What was decided about duplicates, as a part reads it: only its own, from sorted files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cluster.store import Store
from pipelines.curate.places import line_of, part_range, row_of
from pipelines.curate.runs import Run, read_range

EXACT = "duplicate.exact"
NEAR = "duplicate.near"
EARLIER = "duplicate.earlier"
REPEATED = "duplicate.text"
"""All that a document says had been said before."""


@dataclass(frozen=True)
class Duplicate:
    """Why a document goes, and id and place of the kept one that stands for it (None where many do)."""

    reason: str
    duplicate_of: str | None
    keeper: int | None = None


@dataclass(frozen=True)
class Decisions:
    """Files by place.

    Attributes:
        losers: runs of :func:`pipelines.curate.keepers.decision_type`.
        exact: runs of MARK: those that are equal to another one, word for word.
        repeats: runs of MARK: passages that stand elsewhere too.
    """

    losers: tuple[Run, ...] = ()
    exact: tuple[Run, ...] = ()
    repeats: tuple[Run, ...] = ()

    def load(self, store: Store, part: int) -> dict[int, Duplicate]:
        """Row -> why it goes, for the rows of a part that do."""
        keys = part_range(part)
        exact = {int(place) for run in self.exact for place in read_range(store, run, keys)["key"]}
        found = {}
        for run in self.losers:
            losers = read_range(store, run, keys)
            rows = row_of(losers["key"]).tolist()
            for row, (place, name, earlier, keeper) in zip(rows, losers.tolist(), strict=True):
                reason = EARLIER if earlier else EXACT if place in exact else NEAR
                found[row] = Duplicate(reason, name.decode(), keeper)
        return found

    def load_repeats(self, store: Store, part: int) -> dict[int, frozenset[int]]:
        """Row -> the numbers of its passages that are to go."""
        found: defaultdict[int, set[int]] = defaultdict(set)
        for run in self.repeats:
            place = read_range(store, run, part_range(part))["key"]
            for row, line in zip(row_of(place).tolist(), line_of(place).tolist(), strict=True):
                found[row].add(line)
        return {row: frozenset(lines) for row, lines in found.items()}
