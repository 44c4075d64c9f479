"""The stage ``curate``: tag every document, find duplicates, write the result.

Text is read and written by workers, part by part; ids and hashes travel between workers in sorted files; only counts
and the names of files reach the driver.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from cluster.artifact import COMPARED, Artifact
from cluster.errors import UserError
from cluster.stage import Outcome, StageContext
from cluster.store import Store, Written
from pipelines.corpus.code import code_digest
from pipelines.corpus.parts import map_parts
from pipelines.curate.accounts import Accounts, Benchmarks, index_benchmarks
from pipelines.curate.classifier.training import Trained, train_classifier
from pipelines.curate.config import STAGE, CurateConfig
from pipelines.curate.earlier import find_earlier, signature_parameters, signature_tables
from pipelines.curate.finished import Finished
from pipelines.curate.funnel import Funnel
from pipelines.curate.language import check_languages
from pipelines.curate.measured.groups import addresses
from pipelines.curate.measured.memory import Memory, find_memory, record
from pipelines.curate.mix.licences import check_licences, declared
from pipelines.curate.mix.plan import check_sources
from pipelines.curate.mix.run import Mixture
from pipelines.curate.own_filters.run import check_filters
from pipelines.curate.passes import Passes
from pipelines.curate.report import report
from pipelines.curate.tag import TagSummary
from pipelines.curate.write import WriteSummary


def check(config: CurateConfig, store: Store) -> list[Artifact]:
    """What needs no corpus to be refused; the corpora curated earlier that duplicates are looked for in.

    Raises:
        UserError: an unknown language, a filter that cannot be loaded, an earlier corpus that cannot be compared with.
    """
    check_languages(config.language)
    check_filters(config.filters)
    return find_earlier(config.dedup, store)


def run(config: CurateConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Curate the artifact ``corpus``; see cluster.stage.StageFunction.

    Raises:
        UserError: see :func:`check`; or a licence is refused, or nothing is left (the rule that dropped most is named).
        InternalError: the funnel does not add up.
    """
    corpus = inputs["corpus"]
    earlier = check(config, context.store)
    check_sources(config.mix, corpus)
    check_licences(declared(corpus, config.licences), config.licences)
    benchmarks = index_benchmarks(config, inputs.get("benchmarks"), context)
    mapper = functools.partial(map_parts, workers=config.workers)
    finished = Finished(context.output, _conditions(config, [corpus, *earlier]), mapper)
    trained = finished.once("classifier", lambda: train_classifier(config, context, finished.key("classifier.npz")))
    groups = addresses(config, _sha256(context, trained), _sha256(context, benchmarks))
    memory = None if context.output.fresh else find_memory(context.store, corpus, groups)
    passes = Passes(config, corpus, context, finished, mapper, benchmarks, trained, signature_tables(earlier), memory)
    tagged = passes.tag()
    if memory is not None:
        whole = tagged.whole
        share = whole.remembered.total() / max(1, whole.remembered.total() + whole.measured.total())
        context.progress.note(f"{share:.1%} of what was asked had been measured for {memory.artifact_id}")
    found = passes.find_duplicates(tagged)
    _refuse_empty(tagged.whole, tagged.whole.survivors - found.duplicates, found.duplicates)
    written = passes.write(tagged, found)
    mixture = passes.mix()
    samples = passes.explain(written, mixture)
    passes.publish()
    if finished.taken_over:
        context.progress.note(finished.summary())
    funnel = Funnel.of([tagged.whole], [written], mixture.summary if mixture else None)
    _refuse_empty(tagged.whole, funnel.kept)
    funnel.check()
    check_licences(funnel.after.licences, config.licences)
    accounts = Accounts.of(config, [tagged.whole], [written], funnel, mixture, benchmarks, trained)
    accounts.write(context.output)
    context.output.write_json("funnel.json", funnel.to_json())
    page = report(config, funnel, [tagged.whole], [written], found, accounts, samples, corpus)
    context.output.write_text("report.html", page)
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
        | {f"redacted.{kind}": count for kind, count in funnel.redacted_by_type.items()},
        metrics={"curate.kept_share": funnel.kept / funnel.documents_in} | accounts.metrics(),
        licences=dict(sorted(funnel.after_by("licence").items())),
        details={
            "signatures": signature_parameters(config.dedup),
            "compared_with": {each.id: each.fingerprint for each in earlier},
            "mix": accounts.sources,
            "measured": record(corpus, groups, tagged.whole.survivors),
            "reused": _reused(memory, tagged.whole),
        },
        parents={_role(number): each for number, each in enumerate(earlier)},
        files=_files(tagged.whole, written, mixture),
    )


def _files(tagged: TagSummary, written: WriteSummary, mixture: Mixture | None) -> dict[str, Written]:
    """What the passes wrote for the artifact; a later one may have written or removed what an earlier one wrote."""
    everything: dict[str, Written | None] = {**tagged.files, **written.files}
    if mixture is not None:
        everything |= mixture.summary.files
    return {name: each for name, each in everything.items() if each is not None}


def _sha256(context: StageContext, made: Trained | Benchmarks | None) -> str | None:
    return context.store.sha256(made.key)[0] if made is not None else None


def _reused(memory: Memory | None, tagged: TagSummary) -> dict[str, object]:
    """Where values came from that were not measured, and how many there are of each group."""
    return {
        "from": memory.artifact_id if memory else None,
        "remembered": dict(sorted((+tagged.remembered).items())),
        "measured": dict(sorted((+tagged.measured).items())),
    }


def _role(number: int) -> str:
    return f"{COMPARED} {number + 1}" if number else COMPARED


def _conditions(config: CurateConfig, artifacts: list[Artifact]) -> dict[str, object]:
    """What files between steps depend on besides the artifact's identity."""
    package = Path(__file__).parent
    return {
        "version": [metadata.version("raymill"), STAGE.version],
        "code": code_digest(package, package.parent / "corpus"),
        "memory_bytes": config.dedup.memory_bytes,
        "artifacts": [each.data_prefix for each in artifacts],
    }


def _refuse_empty(tagged: TagSummary, left: int, duplicates: int = 0) -> None:
    if left > 0:
        return
    reasons = tagged.dropped
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
