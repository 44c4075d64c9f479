"""The second pass over one part: the kept documents into their split, the dropped ones into the audit table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store
from pipelines.corpus.table import decode, encode, part_name
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.audit.tally import AuditTally
from pipelines.curate.config import CurateConfig
from pipelines.curate.decisions import REPEATED, Duplicate
from pipelines.curate.dedup import Found
from pipelines.curate.redact import PLACEHOLDERS, redact_sample
from pipelines.curate.repeated_text import without
from pipelines.curate.signatures import load_contents, publish
from pipelines.curate.split import SPLITS, TRAIN, position, side
from pipelines.curate.tag import SAMPLE_CHARACTERS, SAMPLES_PER_REASON, TAGGED, Sample, Tally, WorkKeys

KEPT = pa.schema([each for each in TAGGED if not each.name.startswith("redacted_")])
DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("drop_reason", pa.string()),
        ("duplicate_of", pa.string()),
        ("quality_score", pa.float64()),
    ]
)


Edge = tuple[int, str, int]
"""The kept document of the lowest or highest position: position, id and part."""


@dataclass(frozen=True)
class WritePart:
    """One part of the corpus.

    Attributes:
        work: its files from the first pass.
        moved: id -> the split it goes to whatever its own place.
    """

    number: int
    work: WorkKeys
    moved: Mapping[str, str] = field(default_factory=dict)


@dataclass
class WriteSummary:
    """What was written: documents by split and by reason for going, and what the kept ones are.

    Attributes:
        duplicate_characters: in the documents that went as duplicates.
        repeated_characters: taken out of kept documents, since they stand elsewhere too.
        names: id -> path of kept documents that the report wants to show.
        lowest, highest: of the kept documents.
        audit: of the kept documents, where the recipe asks for it.
    """

    number: int
    written: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)
    after: Tally = field(default_factory=Tally)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    duplicate_characters: int = 0
    repeated_characters: int = 0
    lowest: Edge | None = None
    highest: Edge | None = None
    audit: AuditTally = field(default_factory=AuditTally)


def write_part(part: WritePart, *, config: CurateConfig, found: Found, store: Store, prefix: str) -> WriteSummary:
    """Write ``train/``, ``validation/``, ``dropped/`` and ``signatures/`` files of a part; an empty one is left out.

    Where the recipe mixes sources, the training documents go to the part's ``unmixed`` file instead of ``train/``.
    """
    summary = WriteSummary(part.number)
    kept: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    stays: list[int] = []
    edges: list[Edge] = []
    dropped = [{**row, "duplicate_of": None} for row in decode(store.read(part.work.ruled)).to_pylist()]
    goes = found.decisions.load(store, part.number)
    repeats = found.decisions.load_repeats(store, part.number)
    contents = load_contents(store, part.work.signatures)
    for number, row in enumerate(decode(store.read(part.work.tagged)).to_pylist()):
        duplicate = goes.get(number)
        if duplicate is None and number in repeats:
            duplicate = _without_repeats(row, repeats[number], config, summary)
        if duplicate is not None:
            dropped.append(_drop(row, duplicate, summary))
            continue
        stays.append(number)
        edges.append((position(contents[number]), row["id"], part.number))
        kept[part.moved.get(row["id"]) or side(contents[number], config.validation_fraction)].append(row)
        if row["id"] in found.largest:
            summary.names[row["id"]] = row["path"]
        summary.after.add(row)
        if config.audit is not None:
            summary.audit.add(row["source"], row["text"], load_lexicon(config.audit), config.audit.window_words)
        for kind in PLACEHOLDERS:
            summary.redacted[kind] += row.pop(f"redacted_{kind}")
    if stays:
        summary.lowest, summary.highest = min(edges), max(edges)
        publish(store, part.work.signatures, stays, f"{prefix}/{part_name('signatures', part.number)}")
    for split, rows in kept.items():
        summary.written[split] = len(rows)
        place = f"{prefix}/{part_name(split, part.number)}"
        _write(store, part.work.unmixed if split == TRAIN and not config.mix.does_nothing else place, rows, KEPT)
    dropped.sort(key=lambda row: str(row["id"]))
    summary.dropped.update(str(row["drop_reason"]) for row in dropped)
    _write(store, f"{prefix}/{part_name('dropped', part.number)}", dropped, DROPPED)
    return summary


def _drop(row: dict[str, Any], duplicate: Duplicate, summary: WriteSummary) -> dict[str, Any]:
    summary.duplicate_characters += len(row["text"])
    samples = summary.samples.setdefault(duplicate.reason, [])
    if len(samples) < SAMPLES_PER_REASON:
        label = f"{row['path']} (duplicate of {duplicate.duplicate_of})" if duplicate.duplicate_of else row["path"]
        samples.append(Sample(row["id"], label, redact_sample(row["text"], SAMPLE_CHARACTERS)))
    return {
        "id": row["id"],
        "source": row["source"],
        "drop_reason": duplicate.reason,
        "duplicate_of": duplicate.duplicate_of,
        "quality_score": row["quality_score"],
    }


def _without_repeats(
    row: dict[str, Any], numbers: frozenset[int], config: CurateConfig, summary: WriteSummary
) -> Duplicate | None:
    """Take the passages out of the row, or say why it goes as a whole."""
    assert config.dedup.repeated_text is not None
    text, removed = without(row["text"], numbers, config.dedup.repeated_text)
    if not text.strip():
        return Duplicate(REPEATED, None)
    row["text"] = text
    summary.repeated_characters += removed
    return None


def _write(store: Store, key: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    if rows:
        store.write(key, encode(pa.Table.from_pylist(rows, schema=schema)))
    else:
        store.delete(key)  # of this part's first writing, where documents were moved
