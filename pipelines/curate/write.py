"""The second pass over one part: the kept documents into their split, the dropped ones into the audit table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store
from pipelines.corpus.table import decode, encode, part_name
from pipelines.curate.clusters import Duplicate
from pipelines.curate.redact import PLACEHOLDERS, redact_sample
from pipelines.curate.tag import SAMPLE_CHARACTERS, SAMPLES_PER_REASON, TAGGED, Sample, Tally

KEPT = pa.schema([each for each in TAGGED if not each.name.startswith("redacted_")])
DROPPED = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("drop_reason", pa.string()), ("duplicate_of", pa.string())]
)
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class WritePart:
    """What is decided about one part.

    Attributes:
        decisions: id -> the split it goes to, or the duplicate that it is, for every survivor of the rules.
        dropped: id, source and reason of the documents that a rule dropped.
        named: ids whose paths the report wants to show.
    """

    number: int
    tagged_key: str
    decisions: Mapping[str, str | Duplicate]
    dropped: tuple[tuple[str, str, str], ...]
    named: frozenset[str] = frozenset()


@dataclass
class WriteSummary:
    """What was written: documents by split and by reason for going, and what the kept ones are."""

    number: int
    written: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)
    after: Tally = field(default_factory=Tally)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def write_part(part: WritePart, *, store: Store, prefix: str) -> WriteSummary:
    """Write ``train/``, ``validation/`` and ``dropped/`` files of a part; a file without rows is left out."""
    summary = WriteSummary(part.number)
    kept: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    dropped = [
        {"id": each, "source": source, "drop_reason": reason, "duplicate_of": None}
        for each, source, reason in part.dropped
    ]
    for row in decode(store.read(part.tagged_key)).to_pylist():
        decision = part.decisions[row["id"]]
        if isinstance(decision, Duplicate):
            dropped.append(
                {
                    "id": row["id"],
                    "source": row["source"],
                    "drop_reason": decision.reason,
                    "duplicate_of": decision.duplicate_of,
                }
            )
            samples = summary.samples.setdefault(decision.reason, [])
            if len(samples) < SAMPLES_PER_REASON:
                label = f"{row['path']} (duplicate of {decision.duplicate_of})"
                samples.append(Sample(row["id"], label, redact_sample(row["text"], SAMPLE_CHARACTERS)))
            continue
        kept[decision].append(row)
        if row["id"] in part.named:
            summary.names[row["id"]] = row["path"]
        summary.after.add(row)
        for kind in PLACEHOLDERS:
            summary.redacted[kind] += row.pop(f"redacted_{kind}")
    for split, rows in kept.items():
        summary.written[split] = len(rows)
        _write(store, f"{prefix}/{part_name(split, part.number)}", rows, KEPT)
    dropped.sort(key=lambda row: str(row["id"]))
    summary.dropped.update(str(row["drop_reason"]) for row in dropped)
    _write(store, f"{prefix}/{part_name('dropped', part.number)}", dropped, DROPPED)
    return summary


def _write(store: Store, key: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    if rows:
        store.write(key, encode(pa.Table.from_pylist(rows, schema=schema)))
