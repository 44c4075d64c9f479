"""Looking again at the chosen documents: reads them, does once more what the first pass did, and marks what was found.

Only parts that hold one are read, at most ten a reason however large the corpus is, so that finding marks costs the
documents that stay nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InternalError
from cluster.store import Store
from pipelines.corpus.table import decode
from pipelines.curate.classifier.model import load_classifier
from pipelines.curate.config import CurateConfig
from pipelines.curate.decisions import EXACT, REPEATED
from pipelines.curate.decontaminate.index import load_index
from pipelines.curate.marks.gates import mark_classified, mark_contaminated, mark_language, mark_licence, mark_toxic
from pipelines.curate.marks.mark import Mark
from pipelines.curate.marks.meaning import meaning
from pipelines.curate.marks.rules import EMPTY, STEPS, mark_rule
from pipelines.curate.marks.shared import mark_shared
from pipelines.curate.minhash import content_hash
from pipelines.curate.normalise import normalise, readable_text
from pipelines.curate.places import part_of, row_of
from pipelines.curate.quality_chain import QualityChain
from pipelines.curate.samples.choose import Candidate, Candidates
from pipelines.curate.samples.excerpt import excerpt
from pipelines.curate.samples.sample import Sample
from pipelines.curate.split import SPLITS

_RUN_WORDS = 5
"""Words in the runs that a duplicate is compared by where the recipe does not say."""


@dataclass(frozen=True)
class Keeper:
    """Where the text of a document that stays is: a table with ``id`` and ``text``, and the row where it is known."""

    keys: tuple[str, ...]
    row: int | None


@dataclass(frozen=True)
class ChosenPart:
    """The chosen documents of one part.

    Attributes:
        source_key: the corpus's file.
        tagged_key: what the first pass wrote of the documents that it kept.
        chosen: reason and document.
        keepers: place of a document that stays -> where its text is.
    """

    source_key: str
    tagged_key: str
    chosen: tuple[tuple[str, Candidate], ...]
    keepers: Mapping[int, Keeper]


def explain(
    config: CurateConfig,
    store: Store,
    chosen: Candidates,
    *,
    sources: Sequence[str],
    tagged: Sequence[str],
    earlier: Sequence[str],
    mapper: Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]],
    benchmarks: str | None,
    classifier: str | None,
) -> dict[str, list[Sample]]:
    """Reason -> samples, by rank.

    Args:
        sources, tagged: store keys of the corpus's parts, and of what the first pass wrote of each.
        earlier: keys of the signature tables of corpora curated earlier.
        mapper: runs a function over parts on the workers.
        benchmarks, classifier: as of ``tag_part``.
    """
    by_part: dict[int, list[tuple[str, Candidate]]] = {}
    for reason, candidates in chosen.items():
        for each in candidates:
            by_part.setdefault(each.part, []).append((reason, each))
    parts = []
    for number, mine in sorted(by_part.items()):
        places = {each.keeper for _, each in mine if each.keeper is not None}
        keepers = {place: keeper_of(place, tagged, earlier) for place in sorted(places)}
        parts.append(ChosenPart(sources[number], tagged[number], tuple(mine), keepers))
    work = functools.partial(explain_part, config=config, store=store, benchmarks=benchmarks, classifier=classifier)
    made = {(reason, sample.id): sample for samples in mapper(work, parts) for reason, sample in samples}
    return {reason: [made[reason, each.id] for each in candidates] for reason, candidates in chosen.items()}


def explain_part(
    part: ChosenPart, *, config: CurateConfig, store: Store, benchmarks: str | None, classifier: str | None
) -> list[tuple[str, Sample]]:
    """Reason and sample of every chosen document of a part; arguments as of ``tag_part``."""
    rows = _rows(store, part.source_key, [each.id for _, each in part.chosen])
    judged = _Judged(config, store, benchmarks, classifier)
    found = []
    for reason, each in part.chosen:
        row = rows[each.id]
        if reason.startswith("duplicate."):
            found.append((reason, _beside_keeper(part, reason, each, row, config, store)))
            continue
        text, made = judged.mark(row, reason)
        found.append((reason, _sample(row, made, text)))
    return found


class _Judged:
    """What the first pass has at hand."""

    def __init__(self, config: CurateConfig, store: Store, benchmarks: str | None, classifier: str | None) -> None:
        self._config = config
        self._index = load_index(store, benchmarks) if benchmarks else None
        self._classifier = None
        if classifier is not None and config.classifier is not None:
            self._classifier = load_classifier(config.classifier, store, classifier)
        self._chain = QualityChain(config)

    def mark(self, row: Mapping[str, Any], reason: str) -> tuple[str, Mark]:
        """The text that the step saw, and what it saw in it."""
        config = self._config
        step = reason.partition(".")[0]
        text, unreadable = readable_text(row["text"])
        if unreadable:
            return text, Mark(meaning(reason))
        if reason == "licence" and config.licences is not None:
            return text, mark_licence(row["licence"], config.licences)
        text = normalise(text, config.normalise) if config.normalise else text
        if reason == EMPTY or step in STEPS:
            return mark_rule(text, reason, config)
        if reason == "language":
            return text, mark_language(text, config)
        text = self._chain.decide(text)[0]
        if reason == "classifier" and self._classifier is not None:
            return text, mark_classified(text, self._classifier)
        if reason == "audit.toxic" and config.audit is not None:
            return text, mark_toxic(text, config.audit)
        if step == "contaminated" and config.decontaminate is not None and self._index is not None:
            return text, mark_contaminated(text, config.decontaminate, self._index)
        return text, Mark(meaning(reason))


def _sample(row: Mapping[str, Any], made: Mark, text: str) -> Sample:
    return Sample(row["id"], row["source"], row["path"], made.note, excerpt(text, made.places))


def _beside_keeper(
    part: ChosenPart, reason: str, each: Candidate, row: Mapping[str, Any], config: CurateConfig, store: Store
) -> Sample:
    """A duplicate, as the first pass left it, and the one that stays."""
    text = str(_rows(store, part.tagged_key, [each.id], ["id", "text"])[each.id]["text"])
    if reason == REPEATED or each.keeper is None:
        return _sample(row, Mark(meaning(reason), ((0, len(text)),)), text)
    kept = _keeper_row(store, part.keepers[each.keeper], each.duplicate_of)
    ngram = config.dedup.minhash.ngram if config.dedup.minhash else _RUN_WORDS
    made, places = mark_shared(text, kept["text"], ngram)
    if content_hash(text) == content_hash(kept["text"]):
        made, places = Mark("the same words in the same order as the document that stays"), ()
    elif reason == EXACT:  # and its equal is a near-duplicate of the one that stays
        made = replace(made, note=f"the same words in the same order as another document that goes; {made.note}")
    beside = excerpt(kept["text"], places)
    label = f"{kept.get('path') or ''} · {kept['id']}"
    return Sample(row["id"], row["source"], row["path"], made.note, excerpt(text, made.places), label, beside)


def _keeper_row(store: Store, keeper: Keeper, name: str | None) -> dict[str, Any]:
    for key in keeper.keys:
        if not store.exists(key):
            continue
        table = decode(store.read(key), ["id", "path", "text"])
        if keeper.row is not None:
            table = table.slice(keeper.row, 1)
        rows: list[dict[str, Any]] = table.filter(pc.equal(table["id"], name)).to_pylist()
        if rows:
            return rows[0]
    raise InternalError(f"the document {name} that stays for a duplicate was not found", where="curate")


def _rows(store: Store, key: str, ids: Sequence[str], columns: list[str] | None = None) -> dict[str, dict[str, Any]]:
    table = decode(store.read(key), columns)
    wanted = table.filter(pc.is_in(table["id"], pa.array(ids, pa.string())))
    return {row["id"]: row for row in wanted.to_pylist()}


def keeper_of(place: int, tagged: Sequence[str], earlier: Sequence[str]) -> Keeper:
    """Where the text of a document that stays is.

    Args:
        place: its place among the parts of this corpus and then of those curated earlier.
        tagged: keys of what the first pass wrote, by part.
        earlier: keys of the earlier corpora's signature tables, beside which their text is.
    """
    number = np.array([place], np.uint64)
    part = int(part_of(number)[0])
    if part < len(tagged):
        return Keeper((tagged[part],), int(row_of(number)[0]))
    artifact, _, name = earlier[part - len(tagged)].rpartition("/signatures/")
    return Keeper(tuple(f"{artifact}/{split}/{name}" for split in SPLITS), None)
