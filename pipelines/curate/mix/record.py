"""The account of the sources in the artifact's record and on the report's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.report import Page
from pipelines.curate.mix.plan import rollup
from pipelines.curate.mix.run import Mixture
from pipelines.curate.tally import Tally

SHOWN_SOURCES = 50
SHOWN_LICENCES = 12
"""Of a source, those of most documents; the artifact's record has all."""


def account(before: Tally, after: Tally, mixture: Mixture | None) -> list[dict[str, Any]]:
    """One entry a source, in name order: documents and bytes in and published (all splits), repeats and licences.

    ``train`` says how the mix made the training split of what curation had kept for it; see
    :func:`pipelines.curate.mix.plan.rollup`.
    """
    trained = {row.pop("source"): row for row in rollup(mixture.plans, mixture.sizes)} if mixture else {}
    rows = []
    for source in sorted(name for field, name in before.documents if field == "source"):
        key = ("source", source)
        licences = {
            licence: count for (name, licence), count in sorted(after.licences.items()) if name == source and count
        }
        row: dict[str, Any] = {
            "source": source,
            "weight": trained[source]["weight"] if source in trained else 1.0,
            "documents_in": before.documents[key],
            "documents": after.documents[key],
            "repeats": trained[source]["repeats"] if source in trained else 0,
            "bytes_in": before.bytes[key],
            "bytes": after.bytes[key],
            "licences": licences,
        }
        rows.append(row | ({"train": trained[source]} if source in trained else {}))
    return rows


def mix_section(page: Page, rows: list[dict[str, Any]]) -> None:
    """Add the sources, their licences, and the mixture of the training split."""
    page.heading("Sources and licences")
    rows = sorted(rows, key=lambda row: (-row["bytes_in"], row["source"]))
    page.table([_source_row(row) for row in rows], most=SHOWN_SOURCES)
    mixed = [row for row in rows if "train" in row]
    if mixed:
        page.heading("Mixture of the training split")
        page.table([_mixed_row(row) for row in mixed], most=SHOWN_SOURCES)
        shares = {row["source"]: (row["train"]["share_wanted"], row["train"]["share"]) for row in mixed[:SHOWN_SOURCES]}
        page.paired_bars("Share of the training split", shares, ("wanted", "made"))


def _source_row(row: Mapping[str, Any]) -> dict[str, Any]:
    often = sorted(row["licences"].items(), key=lambda each: (-each[1], each[0]))
    named = [f"{licence} ({count:,})" for licence, count in often[:SHOWN_LICENCES]]
    named += [f"{len(often) - SHOWN_LICENCES:,} more"] if len(often) > SHOWN_LICENCES else []
    return {
        "source": row["source"],
        "documents in": row["documents_in"],
        "published": row["documents"],
        "repeats": row["repeats"],
        "bytes in": row["bytes_in"],
        "bytes published": row["bytes"],
        "licences": ", ".join(named),
    }


def _mixed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    train = row["train"]
    return {
        "source": row["source"],
        "weight": train["weight"],
        "share wanted": train["share_wanted"],
        "share": train["share"],
        "copies wanted": train["copies_wanted"],
        "limited by": train["limited_by"],
        "documents in": train["documents_in"],
        "documents used": train["documents"],
        "repeats": train["repeats"],
        "bytes": train["bytes"],
    }
