"""The second pass over one part: the kept documents into their split, the dropped ones into the audit table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store, Written
from pipelines.corpus.table import decode, encode, part_name
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.audit.tally import AuditTally
from pipelines.curate.config import CurateConfig
from pipelines.curate.decisions import REPEATED, Duplicate
from pipelines.curate.dedup import Found
from pipelines.curate.measured.memory import Memory
from pipelines.curate.measured.surveyed import load_survey, survey_name
from pipelines.curate.redact import PLACEHOLDERS
from pipelines.curate.repeated_text import without
from pipelines.curate.samples.choose import Candidates, choose, merge
from pipelines.curate.samples.excerpt import excerpt
from pipelines.curate.samples.sample import Sample
from pipelines.curate.signatures import load_contents, publish
from pipelines.curate.split import SPLITS, TRAIN, position, side
from pipelines.curate.survey import Survey, Surveyor
from pipelines.curate.tag import TAGGED, WorkKeys
from pipelines.curate.tally import PASSAGES, Flow, Tally

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
        redacted: (source, type) -> placeholders in the kept documents.
        duplicate_characters: in the documents that went as duplicates.
        repeated_characters: taken out of kept documents, since they stand elsewhere too.
        candidates: which of the dropped documents the report may show.
        heads: id -> beginning of kept documents that stand for many duplicates.
        lowest, highest: of the kept documents.
        audit: of the kept documents, where the recipe asks for it.
        flow: the text of duplicates, and passages taken out of kept documents.
        survey: of some of the kept documents.
        files: path in the artifact -> size and checksum; None where a part has no such file.
    """

    number: int
    written: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    redacted: Counter[tuple[str, str]] = field(default_factory=Counter)
    after: Tally = field(default_factory=Tally)
    candidates: Candidates = field(default_factory=dict)
    heads: dict[str, Sample] = field(default_factory=dict)
    duplicate_characters: int = 0
    repeated_characters: int = 0
    lowest: Edge | None = None
    highest: Edge | None = None
    audit: AuditTally = field(default_factory=AuditTally)
    flow: Flow = field(default_factory=Flow)
    survey: Survey = field(default_factory=Survey)
    files: dict[str, Written | None] = field(default_factory=dict)

    def merge(self, later: WriteSummary) -> None:
        """Add the summary of a part that comes later in the corpus."""
        self.written.update(later.written)
        self.dropped.update(later.dropped)
        self.redacted.update(later.redacted)
        self.after.merge(later.after)
        self.candidates = merge([self.candidates, later.candidates])
        self.heads |= later.heads
        self.duplicate_characters += later.duplicate_characters
        self.repeated_characters += later.repeated_characters
        self.lowest = min((each for each in (self.lowest, later.lowest) if each), default=None)
        self.highest = max((each for each in (self.highest, later.highest) if each), default=None)
        self.audit.merge(later.audit)
        self.flow.merge(later.flow)
        self.survey.merge(later.survey)
        self.files |= later.files


def write_part(
    part: WritePart,
    *,
    config: CurateConfig,
    found: Found,
    store: Store,
    prefix: str,
    survey_share: float = 0.0,
    memory: Memory | None = None,
) -> WriteSummary:
    """Write ``train/``, ``validation/``, ``dropped/`` and ``signatures/`` files of a part; an empty one is left out.

    Where the recipe mixes sources, the training documents go to the part's ``unmixed`` file instead of ``train/``.

    Args:
        survey_share: of the documents that are measured for the report.
        memory: what an earlier run has measured.
    """
    summary = WriteSummary(part.number)
    surveyed = memory.load_survey(store, part.number) if memory else load_survey(store, part.work.surveyed)
    surveyor = Surveyor(config, survey_share, surveyed)
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
            summary.heads[row["id"]] = Sample(row["id"], row["source"], row["path"], "", excerpt(row["text"], (), 300))
        summary.after.add(row)
        summary.after.add_judged(row)
        surveyor.look(row["id"], row["text"], summary.survey)
        if config.audit is not None:
            summary.audit.add(row["source"], row["text"], load_lexicon(config.audit), config.audit.window_words)
        for kind in PLACEHOLDERS:
            summary.redacted[row["source"], kind] += row.pop(f"redacted_{kind}")
    if stays:
        summary.lowest, summary.highest = min(edges), max(edges)
        name = part_name("signatures", part.number)
        summary.files[name] = publish(store, part.work.signatures, stays, f"{prefix}/{name}")
    for split, rows in kept.items():
        summary.written[split] = len(rows)
        if split == TRAIN and not config.mix.does_nothing:
            _write(store, part.work.unmixed, rows, KEPT)
        else:
            name = part_name(split, part.number)
            summary.files[name] = _write(store, f"{prefix}/{name}", rows, KEPT)
    if config.keep_measured:
        name = survey_name(part.number)
        summary.files[name] = _write(store, f"{prefix}/{name}", surveyor.rows, surveyor.schema)
    dropped.sort(key=lambda row: str(row["id"]))
    summary.dropped.update(str(row["drop_reason"]) for row in dropped)
    summary.candidates = choose(dropped, part.number)
    name = part_name("dropped", part.number)
    summary.files[name] = _write(store, f"{prefix}/{name}", dropped, DROPPED)
    return summary


def _drop(row: dict[str, Any], duplicate: Duplicate, summary: WriteSummary) -> dict[str, Any]:
    summary.duplicate_characters += len(row["text"])
    summary.flow.add(duplicate.reason, row["text"])
    return {
        "id": row["id"],
        "source": row["source"],
        "drop_reason": duplicate.reason,
        "duplicate_of": duplicate.duplicate_of,
        "keeper": duplicate.keeper,
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
    summary.flow.add(PASSAGES, row["text"], instead=text)
    row["text"] = text
    summary.repeated_characters += removed
    return None


def _write(store: Store, key: str, rows: list[dict[str, Any]], schema: pa.Schema) -> Written | None:
    if rows:
        return store.write_summed(key, encode(pa.Table.from_pylist(rows, schema=schema)))
    store.delete(key)  # of this part's first writing, where documents were moved
    return None
