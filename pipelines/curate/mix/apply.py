"""The training split of one part as the mix wants it: documents left out, documents repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.curate.mix.plan import Numbers, SourcePlan, bins_of

REASON_WEIGHT = "mix.weight"
REASON_CAP = "mix.cap"


@dataclass(frozen=True)
class Mixed:
    """One part after mixing.

    Attributes:
        table: the documents that are used; of repeated ones the second and later copies have ``.2``, ``.3`` and so on
            at the end of their ids.
        left_out: the rows of the documents that are not used at all.
        reasons: why, for each of those.
    """

    table: pa.Table
    left_out: pa.Table
    reasons: list[str]


def measure(table: pa.Table, seed: int) -> dict[str, tuple[Numbers, Numbers]]:
    """Source -> bins and sizes in bytes of its documents, for :class:`pipelines.curate.mix.plan.Sizes`."""
    sources = np.array(table["source"].to_pylist(), dtype=object)
    bins = bins_of(table["id"].to_pylist(), seed)
    sizes = _text_bytes(table)
    return {str(name): (bins[sources == name], sizes[sources == name]) for name in sorted(set(sources))}


def mix_table(table: pa.Table, plans: Mapping[str, SourcePlan], seed: int) -> Mixed:
    """Apply the plans to documents of any sources, in their order; copies follow their original."""
    sources = table["source"].to_pylist()
    ids = table["id"].to_pylist()
    bins = bins_of(ids, seed)
    uses = np.zeros(len(ids), np.int64)
    for name in set(sources):
        own = np.array([each == name for each in sources], bool)
        uses[own] = plans[name].uses(bins[own])
    rows = np.repeat(np.arange(len(ids)), uses)
    first = np.concatenate([[0], np.cumsum(uses)[:-1]]) if len(ids) else np.zeros(0, np.int64)
    copy = np.arange(len(rows)) - first[rows]
    names = [ids[row] if number == 0 else f"{ids[row]}.{number + 1}" for row, number in zip(rows, copy, strict=True)]
    used = table.take(rows).set_column(table.schema.get_field_index("id"), "id", pa.array(names, pa.string()))
    unused = np.flatnonzero(uses == 0)
    capped = {name for name, plan in plans.items() if plan.limited_by in ("max_documents", "max_bytes")}
    reasons = [REASON_CAP if sources[row] in capped else REASON_WEIGHT for row in unused]
    return Mixed(used, table.take(unused), reasons)


def _text_bytes(table: pa.Table) -> Numbers:
    import pyarrow.compute as pc

    lengths = pc.binary_length(table["text"].combine_chunks())
    return np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)
