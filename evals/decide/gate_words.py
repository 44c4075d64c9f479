"""A gate's outcome as a table and a page."""

from __future__ import annotations

from typing import Any

from cluster.report import Page
from evals.decide.comparison import Comparison
from evals.decide.gate import Check, GateResult
from evals.decide.page import add_comparison
from evals.decide.reading import Measured

SENTENCES = {
    "pass": "The candidate may replace the baseline: everything that was asked is shown.",
    "fail": "The candidate must not replace the baseline: something that was asked is shown not to hold.",
    "no_evidence": "Not decided: these documents neither show nor refute everything that was asked.",
}


def table_rows(checks: list[Check], candidate: Measured) -> list[dict[str, Any]]:
    """One row a check, each naming the set of questions."""
    return [
        {
            "check": candidate.label(check.name),
            "condition": check.condition,
            "value": "not measured" if check.value is None else f"{check.value:.4f}",
            "at least": _shown(check.low),
            "at most": _shown(check.high),
            "documents": check.documents,
            "verdict": check.verdict.replace("_", " "),
            "would decide": check.needs,
            "note": check.note,
        }
        for check in checks
    ]


def gate_page(result: GateResult, candidate: Measured, baseline: Measured | None, compared: Comparison | None) -> Page:
    """The page that a decision keeps: the checks, and the comparison where there is a baseline."""
    subtitle = f"candidate {candidate.model}" + (f", baseline {baseline.model}" if baseline else "")
    page = Page(f"Gate: {result.verdict.replace('_', ' ')}", subtitle)
    page.paragraph(SENTENCES[result.verdict])
    page.heading("What was asked")
    page.table(table_rows(result.checks, candidate))
    page.paragraph(
        "At least, at most: one-sided bounds. A check passes when its bound lies on the good side, and fails when"
        " the other one lies on the bad side. Would decide: documents with which it would be shown four times in five."
    )
    if compared is not None:
        add_comparison(page, compared)
    return page


def _shown(bound: float | None) -> str:
    return "" if bound is None else f"{bound:+.4f}"
