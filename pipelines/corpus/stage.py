"""The stage ``corpus``: list every source, read the items in parallel, stop each source at its cap."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.stage import Outcome, StageContext
from cluster.store import Store
from pipelines.corpus.config import CorpusConfig, PathSource, SourceBase
from pipelines.corpus.documents import Document, Item, Problem
from pipelines.corpus.parts import map_parts
from pipelines.corpus.readers import read_item
from pipelines.corpus.report import report
from pipelines.corpus.sources import SOURCES, source_names
from pipelines.corpus.table import decode, encode, part_name, to_table

FEWEST_PARTS = 16
SMALLEST_PART_BYTES = 512 << 10
LARGEST_PART_BYTES = 32 << 20
MARGIN = 1.1
"""Sizes are estimates: a little more than the cap is read at first, and the rest only if that falls short."""


@dataclass(frozen=True)
class Part:
    """Consecutive items of one source that one worker reads into one file."""

    number: int
    items: tuple[Item, ...]


@dataclass
class PartSummary:
    """What became of a part.

    Attributes:
        sizes: UTF-8 bytes of each document, in order.
        kinds, licences: of each document, in order.
        problems: input that could not be used.
    """

    number: int
    sizes: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    licences: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def cut(self, count: int) -> None:
        """Keep the first ``count`` documents."""
        self.sizes, self.kinds, self.licences = self.sizes[:count], self.kinds[:count], self.licences[:count]


def run(config: CorpusConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Read the sources into ``data/part-*.parquet``; see cluster.stage.StageFunction.

    Raises:
        UserError: a source is missing or unreadable, holds bad input that is to be refused, or there is no document.
    """
    by_source: dict[str, list[PartSummary]] = {}
    number = 0
    for source, name in zip(config.sources, source_names(config), strict=True):
        summaries = _read_source(source, name, number, config.workers, context)
        by_source[name] = summaries
        number += len(summaries)
    documents = sum(len(part.sizes) for parts in by_source.values() for part in parts)
    if documents == 0:
        raise UserError(
            "the corpus is empty: no source gave a document",
            where="corpus.sources",
            next_step="check the paths and max_bytes of the sources",
        )
    context.output.write_text("report.html", report(by_source, context.store, context.output))
    everything = [part for parts in by_source.values() for part in parts]
    problems = Counter(problem.reason for part in everything for problem in part.problems)
    return Outcome(
        counts={"documents": documents, "bytes": sum(sum(part.sizes) for part in everything)}
        | {f"skipped.{reason}": count for reason, count in sorted(problems.items())},
        licences=dict(sorted(Counter(licence for part in everything for licence in part.licences).items())),
        details={
            "documents_by_source": {name: sum(len(part.sizes) for part in parts) for name, parts in by_source.items()},
            "documents_by_kind": dict(sorted(Counter(kind for part in everything for kind in part.kinds).items())),
        },
    )


def _read_source(
    source: SourceBase, name: str, first_number: int, workers: int | None, context: StageContext
) -> list[PartSummary]:
    items = SOURCES[type(source)].list_items(source)
    parts = plan_parts(items, source.max_bytes, first_number)
    cap = source.max_bytes
    done: list[PartSummary] = []
    expected = sum(item.estimated_bytes for part in parts for item in part.items)
    with context.progress.step(f"read {name}", total=min(expected, cap or expected), unit="bytes") as tracker:
        read = functools.partial(
            _read_part, source=source, name=name, store=context.store, prefix=context.output.prefix
        )
        size = documents = 0
        for wave in _waves(parts, cap):
            for summary in map_parts(read, wave, workers):
                _refuse_problems(source, summary)
                done.append(summary)
                size += sum(summary.sizes)
                documents += len(summary.sizes)
                tracker.update(
                    min(size, cap or size), documents=documents, skipped=sum(len(each.problems) for each in done)
                )
            if cap is not None and size >= cap:
                break
        done.sort(key=lambda summary: summary.number)
        if cap is not None and size > cap:
            done = _cut(done, cap, context)
            tracker.update(sum(sum(each.sizes) for each in done), documents=sum(len(each.sizes) for each in done))
    return done


def plan_parts(items: Sequence[Item], cap: int | None, first_number: int = 0) -> list[Part]:
    """Consecutive items in parts of about equal estimated size, which depends on the items and the cap only."""
    total = sum(item.estimated_bytes for item in items)
    target = min(max(min(total, cap or total) // FEWEST_PARTS, SMALLEST_PART_BYTES), LARGEST_PART_BYTES)
    parts: list[Part] = []
    held: list[Item] = []
    size = 0
    for item in items:
        held.append(item)
        size += item.estimated_bytes
        if size >= target:
            parts.append(Part(first_number + len(parts), tuple(held)))
            held, size = [], 0
    if held:
        parts.append(Part(first_number + len(parts), tuple(held)))
    return parts


def _waves(parts: Sequence[Part], cap: int | None) -> Iterator[list[Part]]:
    """Runs of parts, each expected to fill the cap by itself; a later one is read only if those before fell short."""
    wave: list[Part] = []
    size = 0
    for part in parts:
        wave.append(part)
        size += sum(item.estimated_bytes for item in part.items)
        if cap is not None and size >= cap * MARGIN:
            yield wave
            wave, size = [], 0
    if wave:
        yield wave


def _read_part(part: Part, *, source: SourceBase, name: str, store: Store, prefix: str) -> PartSummary:
    summary = PartSummary(part.number)
    documents: list[Document] = []
    for item in part.items:
        for outcome in read_item(item, source):
            if isinstance(outcome, Problem):
                summary.problems.append(outcome)
                continue
            documents.append(outcome)
            summary.sizes.append(len(outcome.text.encode("utf-8")))
            summary.kinds.append(str(outcome.metadata.get("kind", "")))
            summary.licences.append(outcome.licence)
    store.write(f"{prefix}/{part_name('data', part.number)}", encode(to_table(documents, name)))
    return summary


def _refuse_problems(source: SourceBase, summary: PartSummary) -> None:
    if summary.problems and isinstance(source, PathSource) and source.bad_input == "refuse":
        first = summary.problems[0]
        raise UserError(first.what, where=first.where, next_step="repair it, or set the source's bad_input: skip")


def _cut(parts: list[PartSummary], cap: int, context: StageContext) -> list[PartSummary]:
    """The longest beginning of the documents that fits the cap; files are shortened and removed to match."""
    kept: list[PartSummary] = []
    room = cap
    full = False
    for part in parts:
        count = 0
        for size in part.sizes:
            full = full or size > room
            if full:
                break
            room -= size
            count += 1
        key = context.output.key(part_name("data", part.number))
        if count == 0:
            context.store.delete(key)
            continue
        if count < len(part.sizes):
            context.store.write(key, encode(decode(context.store.read(key)).slice(0, count)))
            part.cut(count)
        kept.append(part)
    return kept
