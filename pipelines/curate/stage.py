"""The stage ``curate``: tag every document, find duplicates, write the result.

Text is read and written by workers, part by part; ids and hashes travel between workers in sorted files; only counts
and the names of files reach the driver.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cluster.artifact import Artifact
from cluster.errors import InternalError, UserError
from cluster.stage import Outcome, StageContext
from pipelines.corpus.parts import map_parts
from pipelines.curate.accounts import Accounts, Benchmarks, index_benchmarks
from pipelines.curate.classifier.training import Trained, train_classifier
from pipelines.curate.config import CurateConfig
from pipelines.curate.decisions import REPEATED
from pipelines.curate.dedup import Deduplication, Found
from pipelines.curate.earlier import find_earlier, signature_parameters, signature_tables
from pipelines.curate.funnel import Funnel
from pipelines.curate.language import check_languages
from pipelines.curate.mix.licences import check_licences, declared
from pipelines.curate.mix.plan import check_sources
from pipelines.curate.mix.run import MixPart, Mixture, mix_parts
from pipelines.curate.own_filters.run import check_filters
from pipelines.curate.report import report
from pipelines.curate.split import TRAIN, VALIDATION
from pipelines.curate.tag import TagPart, TagSummary, WorkKeys, tag_part
from pipelines.curate.write import WritePart, WriteSummary, write_part


def run(config: CurateConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Curate the artifact ``corpus``; see cluster.stage.StageFunction.

    Raises:
        UserError: an unknown language, an earlier corpus that cannot be compared with, or nothing is left (the rule
            that dropped most is named).
        InternalError: the funnel does not add up.
    """
    check_languages(config.language)
    check_filters(config.filters)
    check_sources(config.mix, inputs["corpus"])
    check_licences(declared(inputs["corpus"], config.licences), config.licences)
    benchmarks = index_benchmarks(config, inputs.get("benchmarks"), context)
    earlier = find_earlier(config.dedup, context.store)
    trained = train_classifier(config, context)
    tagged = _tag(config, inputs["corpus"], context, benchmarks, trained)
    found = _find_duplicates(config, tagged, signature_tables(earlier), context)
    _refuse_empty(tagged, sum(summary.survivors for summary in tagged) - found.duplicates, found.duplicates)
    written = _write(config, tagged, found, context)
    mixture = _mix(config, tagged, context)
    context.store.delete_all(context.output.resume_key())
    funnel = Funnel.of(tagged, written, mixture.summary if mixture else None)
    _refuse_empty(tagged, funnel.kept)
    funnel.check()
    check_licences(funnel.after.licences, config.licences)
    accounts = Accounts.of(config, tagged, written, funnel, mixture, benchmarks, trained)
    accounts.write(context.output)
    context.output.write_json("funnel.json", funnel.to_json())
    context.output.write_text("report.html", report(config, funnel, tagged, written, found, accounts))
    return Outcome(
        counts={
            "documents_in": funnel.documents_in,
            "documents": funnel.kept,
            "train_documents": funnel.splits["train"],
            "validation_documents": funnel.splits["validation"],
            "bytes": funnel.after.bytes["all", "all"],
        }
        | ({"repeats": sum(row["repeats"] for row in accounts.sources)} if mixture else {})
        | {f"dropped.{reason}": count for reason, count in sorted(funnel.dropped.items())}
        | {f"redacted.{kind}": count for kind, count in sorted(funnel.redacted.items())},
        metrics={"curate.kept_share": funnel.kept / funnel.documents_in} | accounts.metrics(),
        licences=dict(sorted(funnel.after_by("licence").items())),
        details={
            "signatures": signature_parameters(config.dedup),
            "compared_with": {each.id: each.fingerprint for each in earlier},
            "mix": accounts.sources,
        },
    )


def _tag(
    config: CurateConfig,
    corpus: Artifact,
    context: StageContext,
    benchmarks: Benchmarks | None,
    trained: Trained | None,
) -> list[TagSummary]:
    names = sorted(file.path for file in corpus.files if file.path.startswith("data/"))
    parts = [TagPart(number, corpus.key(name), _work(context, number)) for number, name in enumerate(names)]
    total = corpus.counts.get("documents")
    summaries = []
    done = kept = 0
    with context.progress.step("clean and judge", total=total, unit="documents") as tracker:
        work = functools.partial(
            tag_part,
            config=config,
            store=context.store,
            benchmarks=benchmarks.key if benchmarks else None,
            classifier=trained.key if trained else None,
        )
        for summary in map_parts(work, parts, config.workers):
            summaries.append(summary)
            done += summary.documents
            kept += summary.survivors
            tracker.update(done, kept=kept, dropped=done - kept)
    return sorted(summaries, key=lambda summary: summary.number)


def _work(context: StageContext, number: int) -> WorkKeys:
    return WorkKeys.of(context.output.resume_key(), number)


def _find_duplicates(
    config: CurateConfig, tagged: list[TagSummary], earlier: list[str], context: StageContext
) -> Found:
    survivors = sum(summary.survivors for summary in tagged)
    shares = 0

    def mapper(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        nonlocal shares
        for result in map_parts(function, parts, config.workers):
            shares += 1
            tracker.update(shares_done=shares)
            yield result

    signed = [summary.signed for summary in tagged if summary.signed is not None]
    prefix = context.output.resume_key("duplicates")
    with context.progress.step("find duplicates", total=survivors, unit="documents") as tracker:
        steps = Deduplication(config.dedup, context.store, prefix, mapper, signed, earlier)
        found = steps.find()
        found = steps.find_repeats([_work(context, summary.number).tagged for summary in tagged], found)
        tracker.update(survivors, kept=survivors - found.duplicates, dropped=found.duplicates)
    return found


def _refuse_empty(tagged: list[TagSummary], left: int, duplicates: int = 0) -> None:
    if left > 0:
        return
    reasons = sum((summary.dropped for summary in tagged), Counter[str]())
    if duplicates > max(reasons.values(), default=0):
        raise UserError(
            f"no document is left: what is left stands in corpora curated earlier ({duplicates:,} documents)",
            where="curate",
            next_step="check curate.dedup.against",
        )
    if not reasons:
        raise UserError("the corpus holds no document", where="curate", next_step="check corpus.sources")
    worst, count = min(reasons.items(), key=lambda item: (-item[1], item[0]))
    raise UserError(
        f"no document is left: {worst} dropped {count:,} of {sum(reasons.values()):,}",
        where="curate",
        next_step=f"relax or switch off {worst.partition('.')[0]} in the recipe's curate section, or check the sources",
    )


def _write(config: CurateConfig, tagged: list[TagSummary], found: Found, context: StageContext) -> list[WriteSummary]:
    work = functools.partial(write_part, config=config, found=found, store=context.store, prefix=context.output.prefix)
    expected = sum(summary.survivors for summary in tagged) - found.duplicates
    parts = [WritePart(summary.number, _work(context, summary.number)) for summary in tagged]
    summaries = {}
    done = 0
    with context.progress.step("write", total=expected, unit="documents") as tracker:
        for summary in map_parts(work, parts, config.workers):
            summaries[summary.number] = summary
            done += summary.written.total() + summary.dropped[REPEATED]
            tracker.update(done)
        for summary in map_parts(work, _moves(config, list(summaries.values()), context), config.workers):
            summaries[summary.number] = summary
    if done != expected:
        raise InternalError(
            f"{done:,} documents were written and {expected:,} decided to be kept",
            where="curate",
            next_step="report it",
        )
    return [summaries[number] for number in sorted(summaries)]


def _mix(config: CurateConfig, tagged: list[TagSummary], context: StageContext) -> Mixture | None:
    if config.mix.does_nothing:
        return None
    parts = [MixPart(summary.number, _work(context, summary.number).unmixed) for summary in tagged]

    def mapper(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        return map_parts(function, parts, config.workers)

    with context.progress.step("mix", total=None):
        return mix_parts(config.mix, parts, context.store, context.output.prefix, mapper, config.audit)


def _moves(config: CurateConfig, written: list[WriteSummary], context: StageContext) -> list[WritePart]:
    """The parts to write again so that both splits have a document, where two are kept and both are wanted.

    Then the document of the lowest position goes to validation, or that of the highest to train.
    """
    counts = sum((summary.written for summary in written), Counter[str]())
    if counts.total() < 2 or config.validation_fraction == 0:
        return []
    moved: dict[int, dict[str, str]] = {}
    if not counts[VALIDATION]:
        _, name, part = min(summary.lowest for summary in written if summary.lowest)
        moved.setdefault(part, {})[name] = VALIDATION
    if not counts[TRAIN]:
        _, name, part = max(summary.highest for summary in written if summary.highest)
        moved.setdefault(part, {})[name] = TRAIN
    return [WritePart(part, _work(context, part), names) for part, names in sorted(moved.items())]
