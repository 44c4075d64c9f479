"""How often each document of each source is used, from the sources' sizes alone.

Documents stand in the order of a hash of their ids. A source is used as a number of whole rounds and, of one more, the
documents that stand first, so that what is chosen depends on ids and sizes and never on files or workers. Sizes are
counted in 65,536 bins of that order: half a megabyte a source, whatever its size; where a source is used in part, and
where a cap cuts it, the cut falls between two bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from cluster.artifact import Artifact
from cluster.errors import UserError
from pipelines.curate.mix.config import MixConfig

BINS = 1 << 16
Numbers = npt.NDArray[np.int64]


@dataclass
class Sizes:
    """The documents of one source by their place in the order.

    Attributes:
        documents, bytes: of each bin.
    """

    documents: Numbers = field(default_factory=lambda: np.zeros(BINS, np.int64))
    bytes: Numbers = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, bins: Numbers, sizes: Numbers) -> None:
        """Count documents given by their bins and sizes in bytes."""
        self.documents += np.bincount(bins, minlength=BINS)
        self.bytes += np.bincount(bins, sizes, minlength=BINS).astype(np.int64)


@dataclass(frozen=True)
class SourcePlan:
    """What is used of one source.

    Attributes:
        weight: as configured.
        share: of the whole mixture's bytes, before limits and caps.
        copies: how often its text was wanted, before limits and caps.
        rounds: how often every document is used.
        extra_bins: documents in the first so many bins are used once more.
        limited_by: ``max_repeats``, ``max_documents`` or ``max_bytes`` where one of them took something away.
    """

    weight: float
    share: float
    copies: float
    rounds: int
    extra_bins: int
    limited_by: str = ""

    def uses(self, bins: Numbers) -> Numbers:
        """How often each of some documents is used."""
        return self.rounds + (bins < self.extra_bins)


def bins_of(ids: Sequence[str], seed: int) -> Numbers:
    """The bin of each document, by XXH64 of its id."""
    return np.fromiter((xxhash.xxh64_intdigest(each.encode(), seed) >> 48 for each in ids), np.int64, len(ids))


def plan_mix(sizes: Mapping[str, Sizes], config: MixConfig) -> dict[str, SourcePlan]:
    """Source -> its plan.

    Raises:
        UserError: nothing is left of any source.
    """
    own = {name: config.of(name).weight for name in sizes}
    weights = {name: 1.0 if weight is None else weight for name, weight in own.items()}
    totals = {name: int(each.bytes.sum()) for name, each in sizes.items()}
    wanted = {name: weights[name] * totals[name] for name in sizes}
    volume = sum(wanted.values())
    raised = {name: (each / volume) ** (1 / config.temperature) if each else 0.0 for name, each in wanted.items()}
    plans = {}
    for name in sorted(sizes):
        share = raised[name] / sum(raised.values()) if volume else 0.0
        copies = weights[name] if config.temperature == 1 else share * volume / max(totals[name], 1)
        plans[name] = _plan_source(sizes[name], weights[name], share, copies, name, config)
    if sizes and not any(plan.rounds or plan.extra_bins for plan in plans.values()):
        raise UserError(
            "the mix leaves no training document", where="curate.mix", next_step="raise the sources' weights or caps"
        )
    return plans


def _plan_source(sizes: Sizes, weight: float, share: float, copies: float, name: str, config: MixConfig) -> SourcePlan:
    own = config.of(name)
    most = own.max_repeats or config.max_repeats
    reach = _nearest(sizes.bytes, min(copies, float(most)))
    limited = "max_repeats" if copies > most else ""
    for label, counted, cap in (
        ("max_documents", sizes.documents, own.max_documents),
        ("max_bytes", sizes.bytes, own.max_bytes),
    ):
        if cap is not None and (within := _within(counted, cap)) < reach:
            reach, limited = within, label
    return SourcePlan(weight, share, copies, *reach, limited)


def _nearest(counted: Numbers, copies: float) -> tuple[int, int]:
    """Rounds and bins whose size is nearest to ``copies`` times the whole."""
    rounds = int(copies)
    before = np.concatenate([[0], np.cumsum(counted)])
    extra = int(np.argmin(np.abs(before - (copies - rounds) * before[-1])))
    return (rounds + 1, 0) if before[-1] and before[extra] == before[-1] else (rounds, extra)


def _within(counted: Numbers, cap: int) -> tuple[int, int]:
    """The most rounds and bins that a cap has room for."""
    before = np.concatenate([[0], np.cumsum(counted)])
    if not before[-1]:
        return 0, 0
    rounds, room = divmod(cap, int(before[-1]))
    return rounds, int(np.searchsorted(before, room, side="right")) - 1


def check_sources(config: MixConfig, corpus: Artifact) -> None:
    """Refuse a mix of sources that the corpus has not, before any work; a source that loses all documents is none.

    Raises:
        UserError: naming the sources that there are.
    """
    known = corpus.details.get("sources")
    unknown = sorted(config.sources.keys() - known.keys()) if known is not None else []
    if unknown:
        raise UserError(
            f"{unknown[0]} is no source of this corpus",
            where="curate.mix.sources",
            next_step=f"sources here: {', '.join(sorted(known or ()))}",
        )


def rollup(plans: Mapping[str, SourcePlan], sizes: Mapping[str, Sizes]) -> list[dict[str, Any]]:
    """The record's account of the training split, one entry a source, in name order.

    ``documents`` are the different ones that are used and ``repeats`` their further uses; bytes and share count both.
    """
    rows: list[dict[str, Any]] = []
    for name in sorted(plans):
        plan, each = plans[name], sizes[name]
        uses = plan.uses(np.arange(BINS))
        rows.append(
            {
                "source": name,
                "weight": plan.weight,
                "share_wanted": plan.share,
                "copies_wanted": plan.copies,
                "limited_by": plan.limited_by,
                "documents_in": int(each.documents.sum()),
                "documents": int(each.documents[uses > 0].sum()),
                "repeats": int((each.documents * np.maximum(uses - 1, 0)).sum()),
                "bytes_in": int(each.bytes.sum()),
                "bytes": int((each.bytes * uses).sum()),
            }
        )
    whole = sum(row["bytes"] for row in rows)
    for row in rows:
        row["share"] = row["bytes"] / whole if whole else 0.0
    return rows
