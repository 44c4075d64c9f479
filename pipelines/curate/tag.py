"""The first pass over one part of the corpus: clean and judge every document, and hash what survives."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store
from pipelines.corpus.table import decode, encode
from pipelines.curate.c4 import apply_c4
from pipelines.curate.clusters import Candidate
from pipelines.curate.config import CurateConfig, MinHashConfig
from pipelines.curate.language import identify_language
from pipelines.curate.minhash import MinHasher, comparable_words, content_hash
from pipelines.curate.normalise import normalise
from pipelines.curate.quality import judge_quality
from pipelines.curate.redact import PLACEHOLDERS, redact, redact_sample
from pipelines.curate.repetition import judge_repetition
from pipelines.curate.words import Words

SAMPLES_PER_REASON = 5
SAMPLE_CHARACTERS = 1000

TAGGED = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("licence", pa.string()),
        ("language", pa.string()),
        ("metadata", pa.string()),
        *((f"redacted_{kind}", pa.int32()) for kind in PLACEHOLDERS),
    ]
)
"""What the second pass reads: the survivors of the rules, sorted by id."""


@dataclass(frozen=True)
class Sample:
    """A dropped document for a person to look at."""

    id: str
    path: str
    text: str


@dataclass
class Tally:
    """Documents and bytes by source, kind and licence."""

    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the corpus table."""
        size = len(row["text"].encode("utf-8"))
        kind = str(json.loads(row["metadata"]).get("kind", "")) or "none"
        for key in (("source", row["source"]), ("kind", kind), ("licence", row["licence"]), ("all", "all")):
            self.documents[key] += 1
            self.bytes[key] += size

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.documents.update(other.documents)
        self.bytes.update(other.bytes)


@dataclass
class TagSummary:
    """What the driver learns about a part: no text except the samples.

    Attributes:
        dropped: id, source and reason of each document that a rule dropped.
        candidates: the others, for deduplication and the split.
        samples: reason -> the dropped documents of the smallest ids.
    """

    number: int
    documents: int = 0
    before: Tally = field(default_factory=Tally)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)


@dataclass(frozen=True)
class TagPart:
    """One file of the corpus and where its survivors go (store keys)."""

    number: int
    source_key: str
    tagged_key: str


def tag_part(part: TagPart, *, config: CurateConfig, store: Store) -> TagSummary:
    """Read a part, write its survivors, report the rest."""
    summary = TagSummary(part.number)
    survivors: list[dict[str, Any]] = []
    rows = decode(store.read(part.source_key)).to_pylist()
    for row in sorted(rows, key=lambda each: str(each["id"])):
        summary.documents += 1
        summary.before.add(row)
        original = row["text"]
        reason = _judge(row, config)
        if reason is None:
            survivors.append(row)
            summary.candidates.append(_candidate(row, config))
            continue
        summary.dropped.append((row["id"], row["source"], reason))
        samples = summary.samples.setdefault(reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append(Sample(row["id"], row["path"], redact_sample(original, SAMPLE_CHARACTERS)))
    store.write(part.tagged_key, encode(pa.Table.from_pylist(survivors, schema=TAGGED)))
    return summary


def _judge(row: dict[str, Any], config: CurateConfig) -> str | None:
    """Why the document goes, or None; then the row holds its cleaned text, language and redaction counts."""
    text = normalise(row["text"]) if config.normalise else row["text"]
    if not text.strip():
        return "empty"
    row["language"] = None
    if config.language:
        row["language"], confidence = identify_language(text)
        if row["language"] not in config.language or confidence < config.language_min_confidence:
            return "language"
    words = Words(text)
    if config.repetition and (reason := judge_repetition(words, config.gopher_repetition)):
        return reason
    if "gopher" in config.quality and (reason := judge_quality(words, config.gopher_quality)):
        return reason
    if "c4" in config.quality:
        text, reason = apply_c4(text, config.c4)
        if reason:
            return reason
        if not text.strip():
            return "empty"
    row["text"], counts = redact(text, config.redact)
    for kind in PLACEHOLDERS:
        row[f"redacted_{kind}"] = counts[kind]
    return None


def _candidate(row: dict[str, Any], config: CurateConfig) -> Candidate:
    text = row["text"]
    words = comparable_words(text)
    bands = b""
    if config.dedup.minhash is not None and words:
        hasher = _hasher(config.dedup.minhash)
        bands = hasher.band_keys(hasher.signature(words)).tobytes()
    return Candidate(row["id"], len(text), content_hash(words or [text]), bands)


@functools.cache
def _hasher(config: MinHashConfig) -> MinHasher:
    return MinHasher(config)
