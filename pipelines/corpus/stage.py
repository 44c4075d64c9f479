"""The stage ``corpus``: list every source, read the items in parallel, stop each source at its cap."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.stage import Outcome, StageContext
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.finished import FinishedParts, read_and_commit
from pipelines.corpus.part import Part, plan_parts
from pipelines.corpus.parts import map_parts
from pipelines.corpus.quarantine import Bad, is_hopeless, refuse_too_many
from pipelines.corpus.report import report
from pipelines.corpus.source import DeclaredSource, SourceBase
from pipelines.corpus.sources import SOURCES, source_names
from pipelines.corpus.summary import Chunk, PartSummary
from pipelines.corpus.table import decode, encode
from pipelines.corpus.tally import Tally

MARGIN = 1.1
"""Sizes are estimates: a little more than the cap is read at first, and the rest only if that falls short."""


def run(config: CorpusConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Read the sources into ``data/part-*.parquet``, and what cannot be used into ``quarantine/part-*.parquet``.

    See cluster.stage.StageFunction.

    Raises:
        UserError: a source is missing or unreadable, too much of it is bad, or there is no document.
        InfraError: S3 or the Hub does not answer.
    """
    by_source: dict[str, list[PartSummary]] = {}
    number = 0
    names = source_names(config)
    finished = FinishedParts(context.output)
    for source, name in zip(config.sources, names, strict=True):
        by_source[name] = _read_source(source, name, number, config, context, finished)
        number += len(by_source[name])
    tallies = {name: Tally.total(part.tally for part in parts) for name, parts in by_source.items()}
    whole = Tally.total(tallies.values())
    bad = Bad.total(part.bad for parts in by_source.values() for part in parts)
    if whole.documents == 0:
        found = ", ".join(f"{reason} {count:,}" for reason, count in bad.reasons.most_common(3))
        raise UserError(
            "the corpus is empty: no source gave a document" + (f" (quarantined: {found})" if found else ""),
            where="corpus.sources",
            next_step="check the paths and max_bytes of the sources",
        )
    about = {
        name: _about(source, tallies[name], by_source[name]) for source, name in zip(config.sources, names, strict=True)
    }
    context.output.write_text("report.html", report(about, by_source, context.store, context.output))
    return Outcome(
        counts={"documents": whole.documents, "bytes": whole.bytes}
        | {f"quarantined.{reason}": count for reason, count in sorted(bad.reasons.items())},
        licences=dict(sorted(whole.licences.items())),
        details={
            "sources": about,
            "documents_by_source": {name: tally.documents for name, tally in tallies.items()},
            "documents_by_kind": dict(sorted(whole.kinds.items())),
        },
        files={name: written for parts in by_source.values() for part in parts for name, written in part.files.items()},
    )


def _about(source: SourceBase, tally: Tally, parts: Sequence[PartSummary]) -> dict[str, Any]:
    """What the record keeps of a source, for mixing and for whoever asks where a corpus came from."""
    declared = source if isinstance(source, DeclaredSource) else None
    passed_over = sum((part.passed_over for part in parts), Counter[str]())
    return {
        "kind": str(getattr(source, "kind", "")),
        "licence": declared.licence if declared else None,
        "licences": dict(sorted(tally.licences.items())),
        "language": declared.language if declared else None,
        "metadata": dict(declared.metadata) if declared else {},
        "documents": tally.documents,
        "bytes": tally.bytes,
        "quarantined": dict(sorted(Bad.total(part.bad for part in parts).reasons.items())),
        "passed_over": dict(sorted(passed_over.items())),
    }


def _read_source(
    source: SourceBase,
    name: str,
    first_number: int,
    config: CorpusConfig,
    context: StageContext,
    finished: FinishedParts,
) -> list[PartSummary]:
    items = SOURCES[type(source)].list_items(source, config.part_bytes)
    cap = source.max_bytes
    parts = plan_parts(items, cap, config.part_bytes, first_number)
    done: list[PartSummary] = []
    expected = sum(part.estimated_bytes for part in parts)
    with context.progress.step(f"read {name}", total=min(expected, cap or expected), unit="bytes") as tracker:
        read = functools.partial(
            read_and_commit,
            source=source,
            name=name,
            part_bytes=config.part_bytes,
            store=context.store,
            parts_key=finished.key,
        )
        size = documents = bad = 0
        for wave in _waves(parts, cap):
            taken = finished.take_over(wave, name)
            if taken:
                tracker.note(f"{name}: {len(taken):,} of {len(wave):,} parts were read by an earlier try")
            had = {summary.number for summary in taken}
            left = {part.number: part for part in wave if part.number not in had}
            fresh: list[PartSummary] = []
            for summary in itertools.chain(taken, map_parts(read, list(left.values()), config.workers)):
                done.append(summary)
                if summary.number in left:
                    fresh.append(summary)
                tally = summary.tally
                size += tally.bytes
                documents += tally.documents
                bad += summary.bad.count
                tracker.update(min(size, cap or size), documents=documents, quarantined=bad)
                if is_hopeless(documents, bad, config.max_bad_fraction):
                    break
            finished.place(((left[summary.number], summary) for summary in fresh), name)
            if cap is not None and size >= cap:
                break
        done.sort(key=lambda summary: summary.number)
        refuse_too_many(source, name, documents, Bad.total(each.bad for each in done), config.max_bad_fraction)
        if cap is not None and size > cap:
            done = _cut(done, cap, context)
            kept = Tally.total(each.tally for each in done)
            tracker.update(kept.bytes, documents=kept.documents)
    return done


def _waves(parts: Sequence[Part], cap: int | None) -> Iterator[list[Part]]:
    """Runs of parts, each expected to fill the cap by itself; a later one is read only if those before fell short."""
    wave: list[Part] = []
    size = 0
    for part in parts:
        wave.append(part)
        size += part.estimated_bytes
        if cap is not None and size >= cap * MARGIN:
            yield wave
            wave, size = [], 0
    if wave:
        yield wave


def _cut(parts: list[PartSummary], cap: int, context: StageContext) -> list[PartSummary]:
    """The longest beginning of the documents that fits the cap; files are shortened and removed to match."""
    kept: list[PartSummary] = []
    room = cap
    full = False
    for part in parts:
        if full:
            for name in part.files:
                context.store.delete(context.output.key(name))
            continue
        chunks = []
        for chunk in part.chunks:
            if not full and chunk.tally.bytes <= room:
                room -= chunk.tally.bytes
                chunks.append(chunk)
                continue
            shortened = None if full else _shorten(chunk, room, context)
            full = True
            if shortened:
                chunks.append(shortened)
            else:
                context.store.delete(context.output.key(chunk.name))
        part.chunks = chunks
        kept.append(part)
    return kept


def _shorten(chunk: Chunk, room: int, context: StageContext) -> Chunk | None:
    """The chunk cut to the documents that fit into ``room`` bytes; None where not even the first does."""
    key = context.output.key(chunk.name)
    table = decode(context.store.read(key))
    count = 0
    for text in table.column("text"):
        room -= len(text.as_py().encode("utf-8"))
        if room < 0:
            break
        count += 1
    if count == 0:
        return None
    left = table.slice(0, count)
    written = context.store.write_summed(key, encode(left))
    return Chunk(
        chunk.name, written, Tally.of_rows(left.select(["text", "metadata", "licence", "language"]).to_pylist())
    )
