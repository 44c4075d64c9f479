"""The curation page: the funnel, what each rule dropped (with samples), duplicates, redactions, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.report import Page
from pipelines.curate.accounts import Accounts
from pipelines.curate.config import CurateConfig
from pipelines.curate.dedup import Found
from pipelines.curate.funnel import Funnel
from pipelines.curate.minhash import meeting_probability
from pipelines.curate.tag import SAMPLES_PER_REASON, Sample, TagSummary
from pipelines.curate.write import WriteSummary


def report(
    config: CurateConfig,
    funnel: Funnel,
    tagged: Sequence[TagSummary],
    written: Sequence[WriteSummary],
    found: Found,
    accounts: Accounts | None = None,
) -> str:
    """The page as HTML."""
    page = Page("Curation", f"{funnel.documents_in:,} documents in, {funnel.kept:,} kept")
    page.figures(
        {
            "documents in": funnel.documents_in,
            "documents kept": funnel.kept,
            "MB in": funnel.before.bytes["all", "all"] / 1e6,
            "MB kept": funnel.after.bytes["all", "all"] / 1e6,
            "train": funnel.splits.get("train", 0),
            "validation": funnel.splits.get("validation", 0),
        }
    )
    page.heading("Funnel")
    _funnel(page, funnel)
    page.heading("Duplicates")
    _duplicates(page, config, tagged, written, found)
    page.heading("Redacted in the kept documents")
    page.table([{"type": kind, "placeholders": count} for kind, count in sorted(funnel.redacted.items())])
    for field in ("source", "kind", "licence"):
        page.heading(f"By {field}")
        page.table(funnel.table(field))
    if accounts is not None:
        accounts.show(page)
    page.heading("What each rule dropped")
    further = [accounts.samples] if accounts is not None else []
    samples = _samples([*(each.samples for each in tagged), *(each.samples for each in written), *further])
    for reason, count in funnel.dropped.items():
        page.paragraph(f"{reason}: {count:,} documents")
        for sample in samples.get(reason, []):
            page.sample(f"{sample.path} · {sample.id}", sample.text)
    return page.render()


def _funnel(page: Page, funnel: Funnel) -> None:
    left = funnel.documents_in
    rows: list[dict[str, object]] = [{"step": "documents in", "dropped": None, "left": left}]
    for reason, count in funnel.dropped.items():
        left -= count
        rows.append({"step": reason, "dropped": count, "left": left})
    rows.append({"step": "kept", "dropped": None, "left": funnel.kept})
    page.table(rows)
    page.bar_chart("Dropped by reason", {k: float(v) for k, v in funnel.dropped.items()}, "documents")


def _duplicates(
    page: Page,
    config: CurateConfig,
    tagged: Sequence[TagSummary],
    written: Sequence[WriteSummary],
    found: Found,
) -> None:
    documents, characters = sum(each.survivors for each in tagged), sum(each.characters for each in tagged)
    removed = sum(each.duplicate_characters for each in written)
    page.paragraph(
        f"Of {documents:,} documents that passed the rules {found.duplicates:,} "
        f"({found.duplicates / max(documents, 1):.1%}) were duplicates, {removed / max(characters, 1):.1%} of their "
        "characters."
    )
    if config.dedup.repeated_text is not None:
        taken = sum(each.repeated_characters for each in written)
        page.paragraph(
            f"{taken:,} characters were taken out of documents that stay: {config.dedup.repeated_text.unit}s that "
            "stand elsewhere too."
        )
    minhash = config.dedup.minhash
    if minhash is not None:
        curve = [(s / 50, meeting_probability(s / 50, minhash.bands, minhash.rows)) for s in range(51)]
        half = next((similarity for similarity, chance in curve if chance >= 0.5), 1.0)
        page.paragraph(
            f"Near-duplicates share one of {minhash.bands} bands of {minhash.rows} hashes over {minhash.ngram}-grams "
            f"of words: two documents of Jaccard similarity {half:.2f} are found about half of the time."
        )
        page.line_chart("Chance of being found", {"found": curve}, "Jaccard similarity", "probability")
    names = {each: path for summary in written for each, path in summary.names.items()}
    page.table(
        [
            {"kept document": names.get(keeper, "curated earlier"), "id": keeper, "duplicates removed": count}
            for keeper, count in found.largest.items()
        ]
    )


def _samples(found: Sequence[Mapping[str, Sequence[Sample]]]) -> dict[str, list[Sample]]:
    """The samples of the smallest ids for each reason."""
    merged: dict[str, list[Sample]] = {}
    for part in found:
        for reason, samples in part.items():
            merged.setdefault(reason, []).extend(samples)
    return {reason: sorted(each, key=lambda sample: sample.id)[:SAMPLES_PER_REASON] for reason, each in merged.items()}
