"""The corpus stage's page: what was read, from where, under which licences, with samples."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.attempt import Attempt
from cluster.report import Page
from cluster.store import Store
from pipelines.corpus.table import decode, part_name
from pipelines.curate.redact import redact_sample

if TYPE_CHECKING:
    from pipelines.corpus.stage import PartSummary

SIZE_LIMITS = (500, 2_000, 8_000, 32_000, 128_000)


def report(by_source: Mapping[str, Sequence[PartSummary]], store: Store, output: Attempt) -> str:
    """The page as HTML."""
    parts = [part for each in by_source.values() for part in each]
    sizes = [size for part in parts for size in part.sizes]
    page = Page("Corpus", f"{len(sizes):,} documents from {', '.join(by_source)}")
    licences = Counter(licence for part in parts for licence in part.licences)
    page.figures(
        {
            "documents": len(sizes),
            "MB of text": sum(sizes) / 1e6,
            "licences": len(licences),
            "inputs skipped": sum(len(part.problems) for part in parts),
        }
    )
    page.heading("By source and kind")
    counted: Counter[tuple[str, str]] = Counter()
    weighed: Counter[tuple[str, str]] = Counter()
    for name, each in by_source.items():
        for part in each:
            for kind, size in zip(part.kinds, part.sizes, strict=True):
                counted[name, kind] += 1
                weighed[name, kind] += size
    page.table(
        [
            {"source": name, "kind": kind, "documents": count, "bytes": weighed[name, kind]}
            for (name, kind), count in sorted(counted.items())
        ]
    )
    page.bar_chart("Documents by size in bytes", _histogram(sizes), "documents")
    page.heading("Licences")
    page.table([{"licence": name, "documents": count} for name, count in licences.most_common()])
    problems = [problem for part in parts for problem in part.problems]
    page.heading("Skipped input")
    page.table([{"reason": reason, "inputs": count} for reason, count in Counter(p.reason for p in problems).items()])
    for problem in problems[:10]:
        page.sample(problem.reason, f"{problem.where}: {problem.what}")
    page.heading("Samples")
    for name, each in by_source.items():
        first = next((part for part in each if part.sizes), None)
        if first is not None:
            rows = decode(store.read(output.key(part_name("data", first.number)))).slice(0, 3).to_pylist()
            for row in rows:
                page.sample(f"{name}: {row['path']} ({row['licence']})", redact_sample(row["text"]))
    return page.render()


def _histogram(sizes: Sequence[int]) -> dict[str, float]:
    between = [f"{low:,} to {high:,}" for low, high in itertools.pairwise(SIZE_LIMITS)]
    labels = [f"under {SIZE_LIMITS[0]:,}", *between, f"{SIZE_LIMITS[-1]:,} and more"]
    counts = [0.0] * len(labels)
    for size in sizes:
        counts[sum(size >= limit for limit in SIZE_LIMITS)] += 1
    return dict(zip(labels, counts, strict=True))
