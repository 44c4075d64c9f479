"""Mixing the training split on the workers: sizes first, then each part by the plan that follows from all sizes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.store import Store
from pipelines.corpus.table import decode, encode, part_name
from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.audit.tally import AuditTally
from pipelines.curate.mix.apply import measure, mix_table
from pipelines.curate.mix.config import MixConfig
from pipelines.curate.mix.plan import Numbers, Sizes, SourcePlan, plan_mix
from pipelines.curate.signatures import withdraw
from pipelines.curate.tag import SAMPLES_PER_REASON, Sample, Tally

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


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
        samples: reason -> those of the smallest ids, without their text: nothing is wrong with it.
        audit: what the audit, which counts before the mix, has counted of them.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    removed: Tally = field(default_factory=Tally)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    audit: AuditTally = field(default_factory=AuditTally)

    def merge(self, other: MixSummary) -> None:
        """Add another part's."""
        self.dropped.update(other.dropped)
        self.removed.merge(other.removed)
        self.audit.merge(other.audit)
        for reason, samples in other.samples.items():
            both = sorted([*self.samples.get(reason, []), *samples], key=lambda sample: sample.id)
            self.samples[reason] = both[:SAMPLES_PER_REASON]


@dataclass
class Mixture:
    """The outcome: plans and sizes by source, and what was left out."""

    plans: dict[str, SourcePlan]
    sizes: dict[str, Sizes]
    summary: MixSummary


def mix_parts(
    config: MixConfig,
    parts: Sequence[MixPart],
    store: Store,
    prefix: str,
    mapper: Mapper,
    audit: AuditConfig | None = None,
) -> Mixture:
    """Write ``train/`` below ``prefix`` from unmixed parts, and ``dropped/mix-*`` for what is not used.

    Raises:
        UserError: see :func:`pipelines.curate.mix.plan.plan_mix`.
    """
    sizes: dict[str, Sizes] = {}
    for measured in mapper(functools.partial(_measure_part, seed=config.seed, store=store), parts):
        for source, (bins, counted) in measured.items():
            sizes.setdefault(source, Sizes()).add(bins, counted)
    plans = plan_mix(sizes, config)
    work = functools.partial(_mix_part, plans=plans, seed=config.seed, store=store, prefix=prefix, audit=audit)
    whole = MixSummary()
    for summary in mapper(work, parts):
        whole.merge(summary)
    return Mixture(plans, sizes, whole)


def _measure_part(part: MixPart, *, seed: int, store: Store) -> dict[str, tuple[Numbers, Numbers]]:
    if not store.exists(part.unmixed):
        return {}
    return measure(decode(store.read(part.unmixed), ["id", "source", "text"]), seed)


def _mix_part(
    part: MixPart, *, plans: dict[str, SourcePlan], seed: int, store: Store, prefix: str, audit: AuditConfig | None
) -> MixSummary:
    summary = MixSummary()
    if not store.exists(part.unmixed):
        return summary
    mixed = mix_table(decode(store.read(part.unmixed)), plans, seed)
    if mixed.table.num_rows:
        store.write(f"{prefix}/{part_name('train', part.number)}", encode(mixed.table))
    if not mixed.reasons:
        return summary
    for row, reason in zip(mixed.left_out.to_pylist(), mixed.reasons, strict=True):
        summary.dropped[reason] += 1
        summary.removed.add(row)
        if audit is not None:
            summary.audit.add(row["source"], row["text"], load_lexicon(audit), audit.window_words)
        samples = summary.samples.setdefault(reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append(Sample(row["id"], row["path"], "(sound, but not used)"))
    columns = {
        "id": mixed.left_out["id"],
        "source": mixed.left_out["source"],
        "drop_reason": pa.array(mixed.reasons, pa.string()),
        "duplicate_of": pa.nulls(len(mixed.reasons), pa.string()),
        "quality_score": mixed.left_out["quality_score"],
    }
    withdraw(store, f"{prefix}/{part_name('signatures', part.number)}", mixed.left_out["id"].to_pylist())
    store.write(f"{prefix}/dropped/mix-{part.number:05d}.parquet", encode(pa.table(columns)))
    return summary
