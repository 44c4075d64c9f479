"""Mixing the training split on the workers: sizes first, then each part by the plan that follows from all sizes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from cluster.store import Store, Written
from pipelines.corpus.table import decode, encode, part_name
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.audit.tally import AuditTally
from pipelines.curate.components import Mapper
from pipelines.curate.config import CurateConfig
from pipelines.curate.measured.surveyed import load_survey, survey_name
from pipelines.curate.mix.apply import measure, mix_table
from pipelines.curate.mix.plan import Numbers, Sizes, SourcePlan, plan_mix
from pipelines.curate.samples.choose import Candidates, choose, merge
from pipelines.curate.signatures import withdraw
from pipelines.curate.survey import Survey, Surveyor
from pipelines.curate.tally import Flow, Tally


@dataclass(frozen=True)
class MixPart:
    """One part's training documents as curation kept them (a store key; there may be none)."""

    number: int
    unmixed: str


@dataclass
class MixSummary:
    """What mixing did to one part, or to all.

    Attributes:
        dropped: reason -> documents that are not used at all.
        removed: what those are.
        candidates: which of them the report may show.
        audit, survey: what the audit and the survey, which come before the mix, have counted of them.
        flow: their text.
        files: path in the artifact -> size and checksum; None where a part has no such file.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    removed: Tally = field(default_factory=Tally)
    candidates: Candidates = field(default_factory=dict)
    audit: AuditTally = field(default_factory=AuditTally)
    flow: Flow = field(default_factory=Flow)
    survey: Survey = field(default_factory=Survey)
    files: dict[str, Written | None] = field(default_factory=dict)

    def merge(self, other: MixSummary) -> None:
        """Add another part's."""
        self.dropped.update(other.dropped)
        self.removed.merge(other.removed)
        self.audit.merge(other.audit)
        self.flow.merge(other.flow)
        self.survey.merge(other.survey)
        self.candidates = merge([self.candidates, other.candidates])
        self.files |= other.files


@dataclass
class Mixture:
    """The outcome: plans and sizes by source, and what was left out."""

    plans: dict[str, SourcePlan]
    sizes: dict[str, Sizes]
    summary: MixSummary


def mix_parts(
    config: CurateConfig,
    parts: Sequence[MixPart],
    store: Store,
    prefix: str,
    mapper: Mapper,
    survey_share: float = 0.0,
) -> Mixture:
    """Write ``train/`` below ``prefix`` from unmixed parts, and ``dropped/mix-*`` for what is not used.

    Args:
        survey_share: of the documents that are measured for the report.

    Raises:
        UserError: see :func:`pipelines.curate.mix.plan.plan_mix`.
    """
    sizes: dict[str, Sizes] = {}
    for measured in mapper("mix/sizes", functools.partial(_measure_part, seed=config.mix.seed, store=store), parts):
        for source, (bins, counted) in measured.items():
            sizes.setdefault(source, Sizes()).add(bins, counted)
    plans = plan_mix(sizes, config.mix)
    work = functools.partial(
        _mix_part, plans=plans, config=config, store=store, prefix=prefix, survey_share=survey_share
    )
    whole = MixSummary()
    for summary in mapper("mix/parts", work, parts):
        whole.merge(summary)
    return Mixture(plans, sizes, whole)


def _measure_part(part: MixPart, *, seed: int, store: Store) -> dict[str, tuple[Numbers, Numbers]]:
    if not store.exists(part.unmixed):
        return {}
    return measure(decode(store.read(part.unmixed), ["id", "source", "text"]), seed)


def _mix_part(
    part: MixPart,
    *,
    plans: dict[str, SourcePlan],
    config: CurateConfig,
    store: Store,
    prefix: str,
    survey_share: float,
) -> MixSummary:
    summary = MixSummary()
    surveyor = Surveyor(config, survey_share, load_survey(store, f"{prefix}/{survey_name(part.number)}"))
    audit = config.audit
    if not store.exists(part.unmixed):
        return summary
    mixed = mix_table(decode(store.read(part.unmixed)), plans, config.mix.seed)
    if mixed.table.num_rows:
        name = part_name("train", part.number)
        summary.files[name] = store.write_summed(f"{prefix}/{name}", encode(mixed.table))
    if not mixed.reasons:
        return summary
    for row, reason in zip(mixed.left_out.to_pylist(), mixed.reasons, strict=True):
        summary.dropped[reason] += 1
        summary.removed.add(row)
        summary.removed.add_judged(row)
        summary.flow.add(reason, row["text"])
        surveyor.look(row["id"], row["text"], summary.survey)
        if audit is not None:
            summary.audit.add(row["source"], row["text"], load_lexicon(audit), audit.window_words)
    unused = zip(mixed.left_out["id"].to_pylist(), mixed.reasons, strict=True)
    summary.candidates = choose([{"id": name, "drop_reason": reason} for name, reason in unused], part.number)
    columns = {
        "id": mixed.left_out["id"],
        "source": mixed.left_out["source"],
        "drop_reason": pa.array(mixed.reasons, pa.string()),
        "duplicate_of": pa.nulls(len(mixed.reasons), pa.string()),
        "quality_score": mixed.left_out["quality_score"],
    }
    name = part_name("signatures", part.number)
    summary.files[name] = withdraw(store, f"{prefix}/{name}", mixed.left_out["id"].to_pylist())
    name = f"dropped/mix-{part.number:05d}.parquet"
    summary.files[name] = store.write_summed(f"{prefix}/{name}", encode(pa.table(columns)))
    return summary
