"""The first pass over one part of the corpus: clean and judge every document, and hash what survives."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store
from pipelines.corpus.table import decode, encode
from pipelines.curate.classifier.model import score_bin
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.verdict import ContaminationTally
from pipelines.curate.gates import LICENCE, Gates
from pipelines.curate.language import identify_language
from pipelines.curate.normalise import normalise, readable_text
from pipelines.curate.quality_chain import QualityChain
from pipelines.curate.redact import PLACEHOLDERS, redact, redact_sample
from pipelines.curate.refusal import Refusal, excerpt
from pipelines.curate.signatures import Signed, sign

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
        ("quality_score", pa.float64()),
        *((f"redacted_{kind}", pa.int32()) for kind in PLACEHOLDERS),
    ]
)
"""What the second pass reads: the survivors of the rules, sorted by id."""

RULED = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("drop_reason", pa.string()), ("quality_score", pa.float64())]
)
"""The others, and the rule that dropped each."""


@dataclass(frozen=True)
class Sample:
    """A dropped document for a person to look at."""

    id: str
    path: str
    text: str


@dataclass
class Tally:
    """Documents and bytes by source, kind and licence.

    Attributes:
        licences: (source, licence) -> documents.
    """

    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    licences: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the corpus table."""
        size = len(row["text"].encode("utf-8"))
        kind = str(json.loads(row["metadata"]).get("kind", "")) or "none"
        for key in (("source", row["source"]), ("kind", kind), ("licence", row["licence"]), ("all", "all")):
            self.documents[key] += 1
            self.bytes[key] += size
        self.licences[row["source"], row["licence"]] += 1

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.documents.update(other.documents)
        self.bytes.update(other.bytes)
        self.licences.update(other.licences)

    def remove(self, other: Tally) -> None:
        """Take another tally, of documents that were counted here, off this one."""
        self.documents.subtract(other.documents)
        self.bytes.subtract(other.bytes)
        self.licences.subtract(other.licences)


@dataclass
class TagSummary:
    """What the driver learns about a part: counts, and no text except the samples.

    Attributes:
        dropped: reason -> documents that a rule dropped.
        survivors, characters: the other documents and their length.
        signed: what deduplication compares them by.
        samples: reason -> the dropped documents of the smallest ids.
        contamination: what was found of the benchmarks.
        scores: bar of the classifier's chart -> documents.
    """

    number: int
    documents: int = 0
    before: Tally = field(default_factory=Tally)
    dropped: Counter[str] = field(default_factory=Counter)
    survivors: int = 0
    characters: int = 0
    signed: Signed | None = None
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    contamination: ContaminationTally = field(default_factory=ContaminationTally)
    scores: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class WorkKeys:
    """Files of a part that the first pass writes and later ones read."""

    tagged: str
    ruled: str
    signatures: str
    unmixed: str

    @classmethod
    def of(cls, prefix: str, number: int) -> WorkKeys:
        """Below a folder of the store."""
        return cls(*(f"{prefix}/{name}/{number:05d}.parquet" for name in ("tagged", "ruled", "signatures", "unmixed")))


@dataclass(frozen=True)
class TagPart:
    """One file of the corpus, and where what is made of it goes (store keys)."""

    number: int
    source_key: str
    work: WorkKeys


def tag_part(
    part: TagPart, *, config: CurateConfig, store: Store, benchmarks: str | None = None, classifier: str | None = None
) -> TagSummary:
    """Read a part, write its survivors, report the rest.

    Args:
        benchmarks: store key of the benchmark index, where the recipe decontaminates.
        classifier: store key of the trained classifier, where the recipe has one.
    """
    chain, gates = QualityChain(config), Gates(config, store, benchmarks, classifier)
    summary = TagSummary(part.number, contamination=gates.contamination)
    survivors: list[dict[str, Any]] = []
    positions: list[int] = []
    ruled: list[dict[str, Any]] = []
    rows = decode(store.read(part.source_key)).to_pylist()
    for position, row in sorted(enumerate(rows), key=lambda each: str(each[1]["id"])):
        summary.documents += 1
        row["text"], unreadable = readable_text(row["text"])
        summary.before.add(row)
        original = row["text"]
        refused = Refusal(unreadable) if unreadable else _judge(row, config, chain, gates)
        score = row.get("quality_score")
        if score is not None:
            summary.scores[score_bin(score)] += 1
        if refused is None:
            survivors.append(row)
            positions.append(position)
            summary.characters += len(row["text"])
            continue
        summary.dropped[refused.reason] += 1
        ruled.append({"id": row["id"], "source": row["source"], "drop_reason": refused.reason, "quality_score": score})
        samples = summary.samples.setdefault(refused.reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            whole = redact_sample(original, SAMPLE_CHARACTERS)
            shown = excerpt(row["text"], refused.part, SAMPLE_CHARACTERS) if refused.part else whole
            samples.append(Sample(row["id"], row["path"], shown))
    summary.survivors = len(survivors)
    summary.signed = sign(survivors, positions, part.number, config.dedup, store, part.work.signatures)
    store.write(part.work.tagged, encode(pa.Table.from_pylist(survivors, schema=TAGGED)))
    store.write(part.work.ruled, encode(pa.Table.from_pylist(ruled, schema=RULED)))
    return summary


def _judge(row: dict[str, Any], config: CurateConfig, chain: QualityChain, gates: Gates) -> Refusal | None:
    """Why the document goes, or None; then the row holds its cleaned text, language and redaction counts.

    Of a refusal that marks a part, the row's text is what the part's place refers to.
    """
    if gates.refuses_licence(row["licence"]):
        return Refusal(LICENCE)
    text = normalise(row["text"], config.normalise) if config.normalise else row["text"]
    if not text.strip():
        return Refusal("empty")
    row["language"] = row.get("language")  # what the source declares, where nothing is identified
    if config.language:
        row["language"], confidence = identify_language(text)
        least = config.least_confidence(row["language"])
        if least is None or confidence < least:
            return Refusal("language")
    text, reason = chain.decide(text)
    if reason:
        return Refusal(reason)
    row["text"], row["quality_score"] = text, gates.score(text)
    if refused := gates.refuse(row, text):
        return refused
    row["text"], counts = redact(text, config.redact)
    for kind in PLACEHOLDERS:
        row[f"redacted_{kind}"] = counts[kind]
    return None
