"""The curation page: the funnel, before and after, sources, duplicates, redactions, what each rule dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.artifact import Artifact
from cluster.charts import Histogram
from cluster.report import Page
from pipelines.curate.accounts import Accounts
from pipelines.curate.config import CurateConfig
from pipelines.curate.dedup import Found
from pipelines.curate.distributions import AFTER, BEFORE, distributions_section
from pipelines.curate.funnel import Funnel
from pipelines.curate.marks.meaning import meaning
from pipelines.curate.minhash import meeting_probability
from pipelines.curate.mix.record import SHOWN_SOURCES
from pipelines.curate.samples.sample import Sample
from pipelines.curate.samples.show import samples_section
from pipelines.curate.tag import TagSummary
from pipelines.curate.tally import CLEANED, PASSAGES
from pipelines.curate.write import WriteSummary

BYTES_PER_TOKEN = 4.0
"""A usual yield of byte-level BPE with 32,000 to 128,000 entries on English; the stage ``tokens`` counts exactly."""
SHOWN_REASONS = 300
"""Lines of the funnel on the page; funnel.json has all."""
_TEXT_ONLY = {
    CLEANED: "taken out of documents that pass: normalising, line rules, redaction (documents stay)",
    PASSAGES: "taken out of documents that stay: passages that stand elsewhere too",
}


def report(
    config: CurateConfig,
    funnel: Funnel,
    tagged: Sequence[TagSummary],
    written: Sequence[WriteSummary],
    found: Found,
    accounts: Accounts,
    samples: Mapping[str, Sequence[Sample]],
    corpus: Artifact,
) -> str:
    """The page as HTML."""
    words = funnel.after.words["all", "all"]
    page = Page("Curation", f"{funnel.documents_in:,} documents in, {funnel.kept:,} kept; made of {corpus.id}")
    page.figures(
        {
            "documents in": funnel.documents_in,
            "documents kept": funnel.kept,
            "kept": _share(funnel.kept, funnel.documents_in),
            "MB in": funnel.before.bytes["all", "all"] / 1e6,
            "MB kept": funnel.after.bytes["all", "all"] / 1e6,
            "words kept": words,
            "tokens, estimated": _tokens(funnel.after.bytes["all", "all"]),
            "train": funnel.splits.get("train", 0),
            "validation": funnel.splits.get("validation", 0),
        }
    )
    page.heading("Funnel")
    _funnel(page, funnel)
    _inputs(page, corpus)
    distributions_section(page, config, funnel)
    page.heading("Tokens by source")
    _tokens_by_source(page, funnel)
    accounts.show(page)
    page.heading("Duplicates")
    _duplicates(page, config, tagged, written, found)
    page.heading("Redacted")
    _redacted(page, config, funnel)
    samples_section(page, funnel.dropped, samples)
    return page.render()


def _funnel(page: Page, funnel: Funnel) -> None:
    whole, size = funnel.documents_in, funnel.before.bytes["all", "all"]
    rows: list[dict[str, Any]] = [
        {"step": "in", "what": "", "documents": None, "share": "", "left": whole, "bytes": None, "bytes left": size}
    ]
    for step in funnel.steps():
        rows.append(
            {
                "step": step.reason,
                "what": _TEXT_ONLY.get(step.reason) or meaning(step.reason),
                "documents": -step.documents if step.reason not in _TEXT_ONLY else None,
                "share": _share(step.documents, whole) if step.reason not in _TEXT_ONLY else "",
                "left": step.documents_left,
                "bytes": -step.bytes,
                "bytes left": step.bytes_left,
            }
        )
    kept = funnel.kept, funnel.after.bytes["all", "all"]
    rows.append(
        {"step": "kept", "documents": None, "share": _share(kept[0], whole), "left": kept[0], "bytes left": kept[1]}
    )
    page.table(rows, ["step", "documents", "share", "left", "bytes", "bytes left", "what"], most=SHOWN_REASONS)
    page.paragraph(
        f"It adds up exactly: {whole:,} documents in = {kept[0]:,} kept + {sum(funnel.dropped.values()):,} dropped; "
        f"{size:,} bytes in = {kept[1]:,} kept + {funnel.flow.bytes.total():,} taken out; "
        f"{funnel.before.characters['all', 'all']:,} characters in = {funnel.after.characters['all', 'all']:,} kept + "
        f"{funnel.flow.characters.total():,} taken out. Every document counts once, at the first rule that it breaks; "
        "shares are of the documents in."
    )
    shown = dict(list(funnel.dropped.items())[:SHOWN_REASONS])
    page.bar_chart("Dropped by reason", {reason: float(count) for reason, count in shown.items()}, "documents")


def _inputs(page: Page, corpus: Artifact) -> None:
    """What never became a document: the corpus stage's account."""
    sources = corpus.details.get("sources", {})
    rows = [
        {"source": name, "account": account.replace("_", " "), "reason": reason, "inputs": count}
        for name, each in sources.items()
        for account in ("quarantined", "passed_over")
        for reason, count in each.get(account, {}).items()
    ]
    page.subheading("Before the funnel: inputs that gave no document")
    if not sources:
        page.paragraph("The corpus says nothing about it.")
        return
    page.paragraph(
        "Files, records and lines that the stage corpus could not use (quarantined) or that are no documents (passed "
        "over). How many documents a broken file would have held nobody knows, so they are counted as inputs and stand "
        "outside the funnel; the corpus report shows samples."
    )
    page.table(rows, most=SHOWN_SOURCES)


def _tokens_by_source(page: Page, funnel: Funnel) -> None:
    page.paragraph(
        "No tokenizer is known before the stages tokenizer and tokens have run. So words are counted (what stands "
        f"between blanks), and tokens estimated: one for {BYTES_PER_TOKEN:g} bytes, which is usual for a vocabulary of "
        "32,000 to 128,000 on English. A smaller vocabulary, code and other scripts give more. What the mix repeats "
        "counts once here. The report of the stage tokens has the exact counts, by source too."
    )
    rows = funnel.table("source")
    whole = sum(row["bytes kept"] for row in rows)
    page.table(
        [
            {
                "source": row["source"],
                "words in": row["words in"],
                "words kept": row["words kept"],
                "tokens in (est.)": _tokens(row["bytes in"]),
                "tokens kept (est.)": _tokens(row["bytes kept"]),
                "share of what is kept": _share(row["bytes kept"], whole),
            }
            for row in rows
        ],
        most=SHOWN_SOURCES,
    )
    bars = {row["source"]: (_tokens(row["bytes in"]), _tokens(row["bytes kept"])) for row in rows[:SHOWN_SOURCES]}
    page.paired_bars("Estimated tokens by source", bars, (BEFORE, AFTER))


def _redacted(page: Page, config: CurateConfig, funnel: Funnel) -> None:
    if not config.redact.types:
        page.paragraph("Nothing: the recipe redacts no type.")
        return
    later = [name for name in (PASSAGES, "mix") if any(each.reason.startswith(name) for each in funnel.steps())]
    page.paragraph(
        "Placeholders put into the documents that passed the rules and are no duplicates"
        + (f", before some of their text went again ({' and '.join(later)})." if later else ".")
    )
    kept = funnel.kept + sum(count for reason, count in funnel.dropped.items() if reason.startswith("mix."))
    found = funnel.redacted_by_type
    page.table(
        [
            {"type": kind, "placeholders": count, "for each 1,000 documents": 1000 * count / max(kept, 1)}
            for kind, count in found.items()
        ]
    )
    none = [kind for kind in config.redact.types if not found.get(kind)]
    if none:
        page.paragraph(f"Looked for and not found: {', '.join(none)}.")
    page.bar_chart("Placeholders by type", {kind: float(count) for kind, count in found.items()}, "placeholders")
    by_source = funnel.redacted_by_source
    if by_source:
        page.subheading("Placeholders by source")
        rows = sorted(by_source.items(), key=lambda each: (-sum(each[1].values()), each[0]))
        page.table(
            [{"source": name} | {kind: counts.get(kind, 0) for kind in found} for name, counts in rows],
            most=SHOWN_SOURCES,
        )


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
        f"({_share(found.duplicates, documents)}) were duplicates, {_share(removed, characters)} of their characters."
    )
    if config.dedup.repeated_text is not None:
        taken = sum(each.repeated_characters for each in written)
        page.paragraph(
            f"{taken:,} characters were taken out of documents that stay: {config.dedup.repeated_text.unit}s that "
            "stand elsewhere too."
        )
    if found.sizes:
        bits = range(min(found.sizes), max(found.sizes) + 1)
        labels, heights = [f"{2 ** (bit - 1):,}" for bit in bits], [found.sizes[bit] for bit in bits]
        axis = "documents in a cluster, from the number shown up to the next"
        page.histogram("Clusters by size", Histogram(labels, {"clusters": heights}, axis, "clusters"))
    page.subheading("Largest clusters")
    heads = {name: head for summary in written for name, head in summary.heads.items()}
    bars: dict[str, float] = {}
    for name, count in found.largest.items():
        label = heads[name].path if name in heads else "curated earlier"
        bars[label if label not in bars else f"{label} {name}"] = count
    page.bar_chart("Duplicates removed, by the document that stays", bars, "documents")
    for name, count in found.largest.items():
        head = heads.get(name)
        page.specimen(
            f"{head.source}: {head.path} · {name}" if head else name,
            f"stays for {count + 1:,} documents, {count:,} removed"
            + ("" if head else "; it stands in a corpus curated earlier"),
            [("", head.pieces)] if head else [],
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


def _tokens(size: int) -> int:
    return round(size / BYTES_PER_TOKEN)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""
