"""The corpus stage's page: what was read, from where, under which licences, what was set aside, with samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.attempt import Attempt
from cluster.report import Page
from cluster.store import Store
from pipelines.corpus.quarantine import Bad
from pipelines.corpus.table import decode
from pipelines.corpus.tally import Tally
from pipelines.curate.redact import redact_sample
from pipelines.curate.samples.excerpt import excerpt

if TYPE_CHECKING:
    from pipelines.corpus.summary import PartSummary


def report(
    about: Mapping[str, Mapping[str, Any]],
    by_source: Mapping[str, Sequence[PartSummary]],
    store: Store,
    output: Attempt,
) -> str:
    """The page as HTML; ``about`` is what the record says of each source."""
    tallies = {name: Tally.total(part.tally for part in parts) for name, parts in by_source.items()}
    whole = Tally.total(tallies.values())
    bad = {name: Bad.total(part.bad for part in parts) for name, parts in by_source.items()}
    page = Page("Corpus", f"{whole.documents:,} documents from {', '.join(by_source)}")
    page.figures(
        {
            "documents": whole.documents,
            "MB of text": whole.bytes / 1e6,
            "licences": len(whole.licences),
            "inputs quarantined": sum(each.count for each in bad.values()),
        }
    )
    page.heading("Sources")
    page.table(
        [
            {
                "source": name,
                "kind": each["kind"],
                "licence": each["licence"] or "each document's own",
                "language": each["language"] or "not declared",
                "documents": each["documents"],
                "bytes": each["bytes"],
                "quarantined": sum(each["quarantined"].values()),
                "passed over": sum(each["passed_over"].values()),
            }
            for name, each in about.items()
        ]
    )
    page.bar_chart("Text by source", {name: tally.bytes / 1e6 for name, tally in tallies.items()}, "MB")
    page.heading("By source and kind")
    page.table(
        [
            {"source": name, "kind": kind, "documents": count, "bytes": tally.kind_bytes[kind]}
            for name, tally in tallies.items()
            for kind, count in sorted(tally.kinds.items())
        ]
    )
    page.bar_chart("Documents by size in bytes", whole.by_size(), "documents")
    page.heading("Licences")
    page.table([{"licence": name, "documents": count} for name, count in whole.licences.most_common()])
    _add_quarantine(page, about, bad)
    page.heading("Samples")
    page.paragraph("The first documents of each source, as read; personal data is replaced by placeholders here.")
    for name, parts in by_source.items():
        first = next((chunk for part in parts for chunk in part.chunks), None)
        if first is not None:
            for row in decode(store.read(output.key(first.name))).slice(0, 3).to_pylist():
                page.specimen(f"{name}: {row['path']}", f"licence {row['licence']}", [("", excerpt(row["text"]))])
    return page.render()


def _add_quarantine(page: Page, about: Mapping[str, Mapping[str, Any]], bad: Mapping[str, Bad]) -> None:
    page.heading("Quarantined input")
    page.table(
        [
            {"source": name, "reason": reason, "inputs": count}
            for name, each in bad.items()
            for reason, count in each.reasons.most_common()
        ]
    )
    for name, each in bad.items():
        for reason, problems in sorted(each.samples.items()):
            for problem in problems:
                page.sample(f"{name}: {reason}", f"{problem.where}: {problem.what}{_beginning(problem.first_bytes)}")
    passed = [
        {"source": name, "reason": reason, "records": count}
        for name, each in about.items()
        for reason, count in each["passed_over"].items()
    ]
    if passed:
        page.heading("Passed over: records that are in order but no documents")
        page.table(passed)


def _beginning(data: bytes) -> str:
    """How a bad input begins, as text where it is mostly that, else in hexadecimal digits."""
    if not data:
        return ""
    shown = data.decode("utf-8", "replace")
    strange = sum(character == "\ufffd" or not (character.isprintable() or character.isspace()) for character in shown)
    return f"\nbegins: {redact_sample(shown) if strange <= len(shown) // 10 else data[:24].hex(' ')}"
