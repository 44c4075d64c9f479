"""The stage ``curate``: tag every document, decide about duplicates and the split from hashes, write the result.

Text is read and written by workers, part by part; only ids, hashes and counts reach the driver.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping

from cluster.artifact import Artifact
from cluster.errors import InternalError, UserError
from cluster.stage import Outcome, StageContext
from pipelines.corpus.parts import map_parts
from pipelines.curate.clusters import Duplicate, find_duplicates, largest_clusters
from pipelines.curate.config import CurateConfig
from pipelines.curate.funnel import Funnel
from pipelines.curate.language import check_languages
from pipelines.curate.report import LARGEST_CLUSTERS, report
from pipelines.curate.split import split
from pipelines.curate.tag import TagPart, TagSummary, tag_part
from pipelines.curate.write import WritePart, WriteSummary, write_part


def run(config: CurateConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Curate the artifact ``corpus``; see cluster.stage.StageFunction.

    Raises:
        UserError: an unknown language, or nothing is left (the rule that dropped most is named).
        InternalError: the funnel does not add up.
    """
    check_languages(config.language)
    tagged = _tag(config, inputs["corpus"], context)
    duplicates = _find_duplicates(config, tagged, context)
    _refuse_empty(tagged, duplicates)
    written = _write(config, tagged, duplicates, context)
    context.store.delete_all(context.output.resume_key("tagged"))
    funnel = Funnel.of(tagged, written)
    funnel.check()
    context.output.write_json("funnel.json", funnel.to_json())
    context.output.write_text("report.html", report(config, funnel, tagged, written, duplicates))
    return Outcome(
        counts={
            "documents_in": funnel.documents_in,
            "documents": funnel.kept,
            "train_documents": funnel.splits["train"],
            "validation_documents": funnel.splits["validation"],
            "bytes": funnel.after.bytes["all", "all"],
        }
        | {f"dropped.{reason}": count for reason, count in sorted(funnel.dropped.items())}
        | {f"redacted.{kind}": count for kind, count in sorted(funnel.redacted.items())},
        metrics={"curate.kept_share": funnel.kept / funnel.documents_in},
        licences=dict(sorted(funnel.after_by("licence").items())),
    )


def _tag(config: CurateConfig, corpus: Artifact, context: StageContext) -> list[TagSummary]:
    names = sorted(file.path for file in corpus.files if file.path.startswith("data/"))
    parts = [
        TagPart(number, corpus.key(name), context.output.resume_key(f"tagged/{number:05d}.parquet"))
        for number, name in enumerate(names)
    ]
    total = corpus.counts.get("documents")
    summaries = []
    done = kept = 0
    with context.progress.step("clean and judge", total=total, unit="documents") as tracker:
        work = functools.partial(tag_part, config=config, store=context.store)
        for summary in map_parts(work, parts, config.workers):
            summaries.append(summary)
            done += summary.documents
            kept += len(summary.candidates)
            tracker.update(done, kept=kept, dropped=done - kept)
    return sorted(summaries, key=lambda summary: summary.number)


def _find_duplicates(config: CurateConfig, tagged: list[TagSummary], context: StageContext) -> dict[str, Duplicate]:
    candidates = [each for summary in tagged for each in summary.candidates]
    with context.progress.step("find duplicates", total=len(candidates), unit="documents") as tracker:
        duplicates = find_duplicates(candidates, exact=config.dedup.exact, near=config.dedup.minhash is not None)
        tracker.update(len(candidates), kept=len(candidates) - len(duplicates), dropped=len(duplicates))
    return duplicates


def _refuse_empty(tagged: list[TagSummary], duplicates: Mapping[str, Duplicate]) -> None:
    reasons = Counter(reason for summary in tagged for _, _, reason in summary.dropped)
    if sum(len(summary.candidates) for summary in tagged) > len(duplicates):
        return
    if not reasons:
        raise UserError("the corpus holds no document", where="curate", next_step="check corpus.sources")
    worst, count = min(reasons.items(), key=lambda item: (-item[1], item[0]))
    raise UserError(
        f"no document is left: {worst} dropped {count:,} of {sum(reasons.values()):,}",
        where="curate",
        next_step=f"relax or switch off {worst.partition('.')[0]} in the recipe's curate section, or check the sources",
    )


def _write(
    config: CurateConfig, tagged: list[TagSummary], duplicates: Mapping[str, Duplicate], context: StageContext
) -> list[WriteSummary]:
    kept = [each for summary in tagged for each in summary.candidates if each.id not in duplicates]
    decisions: dict[str, str | Duplicate] = {**split(kept, config.validation_fraction), **duplicates}
    named = frozenset(largest_clusters(duplicates, LARGEST_CLUSTERS))
    parts = [
        WritePart(
            summary.number,
            context.output.resume_key(f"tagged/{summary.number:05d}.parquet"),
            {each.id: decisions[each.id] for each in summary.candidates},
            tuple(summary.dropped),
            named,
        )
        for summary in tagged
    ]
    summaries = []
    done = 0
    with context.progress.step("write", total=len(kept), unit="documents") as tracker:
        work = functools.partial(write_part, store=context.store, prefix=context.output.prefix)
        for summary in map_parts(work, parts, config.workers):
            summaries.append(summary)
            done += summary.written.total()
            tracker.update(done)
    if done != len(kept):
        raise InternalError(
            f"{done:,} documents were written and {len(kept):,} decided to be kept",
            where="curate",
            next_step="report it",
        )
    return sorted(summaries, key=lambda summary: summary.number)
