"""The report's section on contamination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.report import Page

SHOWN_TASKS = 20
"""Of a suite with many tasks, those of which most questions were found."""


def contamination_section(page: Page, contamination: Mapping[str, Any]) -> None:
    """Add what contamination.json says: by suite, and the tasks of suites that most was found of."""
    page.heading("Contamination by benchmarks")
    settings = contamination["settings"]
    done = " and were taken out" if settings["remove"] else " and were left in (remove: false)"
    done = done if contamination["documents_contaminated"] else ""
    page.paragraph(
        f"{contamination['documents_contaminated']:,} of {contamination['documents_checked']:,} documents hold "
        f"questions of the benchmarks ({contamination['benchmarks']}){done}. "
        f"N-grams of {settings['ngram']} words; shorter questions of at least {settings['min_words']} words as a "
        f"whole. {contamination['method']}"
    )
    page.table([row(name, each) for name, each in contamination["suites"].items()])
    if any(each["found"] for each in contamination["suites"].values()):
        rates = {name: 100 * each["rate"] for name, each in contamination["suites"].items()}
        page.bar_chart("Questions found in the corpus, by suite", rates, "% of its questions")
    suites = contamination["suites"].keys()
    found = [(name, each) for name, each in contamination["tasks"].items() if each["found"] and name not in suites]
    if found:
        page.table(
            [row(name, each) for name, each in sorted(found, key=lambda it: (-it[1]["found"], it[0]))[:SHOWN_TASKS]]
        )


def row(name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    """A table's row for one suite or task."""
    return {
        "task": name,
        "questions": counts["questions"],
        "too short to look for": counts["unchecked"],
        "found in the corpus": counts["found"],
        "contamination rate": f"{counts['rate']:.1%}",
        "still in it": counts["left"],
        "contaminated documents": counts["documents"],
    }
