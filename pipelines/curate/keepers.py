"""Which document of each component stays, and what every part has to know of it.

Members of a component carry rank and id to the worker that has the component; the decision travels back to the part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.store import Store
from pipelines.curate.groups import Winners, ranked_type
from pipelines.curate.places import part_of, part_range, row_of
from pipelines.curate.runs import RangePart, Run, RunWriter, read_batches, read_twice
from pipelines.curate.signatures import TablePart, load_ranked


@dataclass
class Kept:
    """What a range of components gave.

    Attributes:
        decisions: runs of :func:`decision_type`, by place.
        duplicates: documents of this corpus that go.
        largest: id of a document that stays -> how many go for it, of the largest components.
        sizes: bits of the number of documents in a component, the one that stays included -> components; 2 are those
            of 2 and 3.
    """

    decisions: list[Run] = field(default_factory=list)
    duplicates: int = 0
    largest: dict[str, int] = field(default_factory=dict)
    sizes: Counter[int] = field(default_factory=Counter)


def decision_type(id_bytes: int) -> np.dtype[np.void]:
    """A place whose document goes, id and place of the one that stays, and whether that is of an earlier corpus."""
    return np.dtype([("key", "<u8"), ("id", f"S{max(id_bytes, 1)}"), ("earlier", "u1"), ("keeper", "<u8")])


def member_part(
    part: TablePart, *, labels: Sequence[Run], id_bytes: int, store: Store, prefix: str, memory_bytes: int
) -> list[Run]:
    """Give every labelled document of a part its rank and id, by component.

    Args:
        labels: PAIR runs, place -> the component's smallest node.
    """
    writer = RunWriter(store, f"{prefix}/{part.number:05d}", memory_bytes)
    ids, ranks = np.empty(0, np.bytes_), np.empty(0, np.float64)
    for batch in read_batches(store, labels, part_range(part.number), memory_bytes):
        if not len(ids):
            ids, ranks = load_ranked(store, part.table_key)
        rows = row_of(batch["key"])
        members = np.zeros(len(batch), ranked_type(id_bytes))
        members["key"], members["place"] = batch["value"], batch["key"]
        members["rank"], members["id"] = ranks[rows], ids[rows]
        writer.add(members)
    return writer.close()


def keep_range(
    part: RangePart,
    *,
    members: Sequence[Run],
    first_earlier: int,
    count_largest: int,
    store: Store,
    prefix: str,
    memory_bytes: int,
) -> Kept:
    """Decide one range of components."""
    read = read_twice(store, members, part.keys, memory_bytes)
    first = np.uint64(first_earlier)
    best = Winners(read(), lambda batch: (part_of(batch["place"]) < first).astype(np.int64))
    kept = Kept()
    if best.records is None:
        return kept
    stays_new = part_of(best.places) < first
    removed = best.count - stays_new
    for at in np.lexsort((best.records["id"], -removed))[:count_largest]:
        if not removed[at]:
            break
        kept.largest[best.records["id"][at].decode()] = int(removed[at])
    kept.duplicates = int(removed.sum())
    bits, groups = np.unique(np.frexp(removed[removed > 0] + 1)[1], return_counts=True)
    kept.sizes.update(dict(zip(bits.tolist(), groups.tolist(), strict=True)))
    writer = RunWriter(store, f"{prefix}/{part.number:05d}", memory_bytes)
    for batch in read():
        at = best.index(batch)
        goes = (best.places[at] != batch["place"]) & (part_of(batch["place"]) < first)
        decisions = np.zeros(int(goes.sum()), decision_type(best.records["id"].dtype.itemsize))
        decisions["key"] = batch["place"][goes]
        decisions["id"], decisions["earlier"] = best.records["id"][at[goes]], ~stays_new[at[goes]]
        decisions["keeper"] = best.places[at[goes]]
        writer.add(decisions)
    kept.decisions = writer.close()
    return kept
