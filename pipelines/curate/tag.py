"""The first pass over one part of the corpus: clean and judge every document, and hash what survives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store, Written
from pipelines.corpus.table import decode, encode, part_name
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.verdict import ContaminationTally
from pipelines.curate.gates import LICENCE, Gates
from pipelines.curate.measured.document import NOTHING_KEPT, Document
from pipelines.curate.measured.groups import SIGNATURES
from pipelines.curate.measured.memory import BANDS, SCORES, TEXTS, Memory
from pipelines.curate.measured.tables import write_scores
from pipelines.curate.normalise import readable_text
from pipelines.curate.quality_chain import QualityChain
from pipelines.curate.redact import PLACEHOLDERS
from pipelines.curate.signatures import Signed, sign
from pipelines.curate.survey import Survey, Surveyor
from pipelines.curate.tally import CLEANED, Flow, Tally

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


@dataclass
class TagSummary:
    """What the driver learns about a part: counts, and no text.

    Attributes:
        flow: the text of the documents that rules dropped, and what cleaning took out of the others.
        survey: of some documents as they came in.
        dropped: reason -> documents that a rule dropped.
        survivors, characters: the other documents and their length.
        signed: what deduplication compares them by.
        contamination: what was found of the benchmarks.
        remembered, measured: group of values -> values that an earlier run had, and that it had not.
        files: path in the artifact -> size and checksum of what was measured.
    """

    number: int
    documents: int = 0
    before: Tally = field(default_factory=Tally)
    dropped: Counter[str] = field(default_factory=Counter)
    survivors: int = 0
    characters: int = 0
    signed: Signed | None = None
    contamination: ContaminationTally = field(default_factory=ContaminationTally)
    flow: Flow = field(default_factory=Flow)
    survey: Survey = field(default_factory=Survey)
    remembered: Counter[str] = field(default_factory=Counter)
    measured: Counter[str] = field(default_factory=Counter)
    files: dict[str, Written] = field(default_factory=dict)

    def merge(self, later: TagSummary) -> None:
        """Add the summary of a part that comes later in the corpus; ``signed`` is each part's own."""
        self.documents += later.documents
        self.survivors += later.survivors
        self.characters += later.characters
        self.before.merge(later.before)
        self.dropped.update(later.dropped)
        self.contamination.merge(later.contamination)
        self.flow.merge(later.flow)
        self.survey.merge(later.survey)
        self.remembered.update(later.remembered)
        self.measured.update(later.measured)
        self.files |= later.files


@dataclass(frozen=True)
class WorkKeys:
    """Files of a part that the first pass writes and later ones read."""

    tagged: str
    ruled: str
    signatures: str
    unmixed: str
    scores: str
    surveyed: str

    @classmethod
    def of(cls, prefix: str, number: int) -> WorkKeys:
        """Below a folder of the store."""
        names = ("tagged", "ruled", "signatures", "unmixed", "scores", "surveyed")
        return cls(*(f"{prefix}/{name}/{number:05d}.parquet" for name in names))


@dataclass(frozen=True)
class TagPart:
    """One file of the corpus, and where what is made of it goes (store keys)."""

    number: int
    source_key: str
    work: WorkKeys


def tag_part(
    part: TagPart,
    *,
    config: CurateConfig,
    store: Store,
    benchmarks: str | None = None,
    classifier: str | None = None,
    survey_share: float = 0.0,
    memory: Memory | None = None,
) -> TagSummary:
    """Read a part, write its survivors, report the rest.

    Args:
        benchmarks: store key of the benchmark index, where the recipe decontaminates.
        classifier: store key of the trained classifier, where the recipe has one.
        survey_share: of the documents that are measured for the report.
        memory: what an earlier run has measured.
    """
    remembered = memory.load(store, part.number) if memory is not None else {}
    surveyor = Surveyor(config, survey_share)
    chain, gates = QualityChain(config), Gates(config, store, benchmarks, classifier)
    summary = TagSummary(part.number, contamination=gates.contamination)
    survivors: list[dict[str, Any]] = []
    positions: list[int] = []
    ruled: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    rows = decode(store.read(part.source_key)).to_pylist()
    for position, row in sorted(enumerate(rows), key=lambda each: str(each[1]["id"])):
        summary.documents += 1
        row["text"], unreadable = readable_text(row["text"])
        summary.before.add(row)
        original = row["text"]
        document = Document(original, config, chain, remembered.get(row["id"], NOTHING_KEPT))
        surveyor.look_at(row["id"], document, summary.survey)
        refused = unreadable or _judge(row, config, document, chain, gates)
        scores.append({"id": row["id"], "source": row["source"], "drop_reason": refused, **document.values})
        summary.remembered.update(document.remembered)
        summary.measured.update(document.measured)
        summary.before.add_judged(row)
        if refused is None:
            if memory is None:  # which knows what was found in the texts that stayed
                surveyor.remember(row["id"], document)
            survivors.append(row)
            positions.append(position)
            summary.characters += len(row["text"])
            summary.flow.add(CLEANED, original, instead=row["text"])
            continue
        summary.dropped[refused] += 1
        summary.flow.add(refused, original)
        ruled.append(
            {
                "id": row["id"],
                "source": row["source"],
                "drop_reason": refused,
                "quality_score": row.get("quality_score"),
            }
        )
    summary.survivors = len(survivors)
    signed = sum("content" in remembered.get(row["id"], NOTHING_KEPT) for row in survivors)
    summary.remembered.update({SIGNATURES: signed})
    summary.measured.update({SIGNATURES: len(survivors) - signed})
    summary.signed = sign(survivors, positions, part.number, config.dedup, store, part.work.signatures, remembered)
    assert summary.signed.written is not None
    texts = store.write_summed(part.work.tagged, encode(pa.Table.from_pylist(survivors, schema=TAGGED)))
    summary.files[part_name(SCORES, part.number)] = write_scores(store, part.work.scores, scores, config)
    if config.keep_measured:
        summary.files[part_name(TEXTS, part.number)] = texts
        summary.files[part_name(BANDS, part.number)] = summary.signed.written
    if surveyor.rows:
        store.write(part.work.surveyed, encode(pa.Table.from_pylist(surveyor.rows, schema=surveyor.schema)))
    store.write(part.work.ruled, encode(pa.Table.from_pylist(ruled, schema=RULED)))
    return summary


def _judge(
    row: dict[str, Any], config: CurateConfig, document: Document, chain: QualityChain, gates: Gates
) -> str | None:
    """Why the document goes, or None; then the row holds its cleaned text, language and redaction counts."""
    if gates.refuses_licence(row["licence"]):
        return LICENCE
    if document.is_blank:
        return "empty"
    row["language"] = row.get("language")  # what the source declares, where nothing is identified
    if config.language:
        row["language"], confidence = document.language
        least = config.least_confidence(row["language"])
        if least is None or confidence < least:
            return "language"
    if reason := chain.judge(document.rules.deciding):
        return reason
    row["quality_score"] = gates.score(lambda: document.rules.text, document.ask)
    if refused := gates.refuse(row, lambda: document.rules.text, document.ask):
        return refused
    row["text"], counts = document.redacted()
    for kind in PLACEHOLDERS:
        row[f"redacted_{kind}"] = counts[kind]
    return None
