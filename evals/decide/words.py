"""What a comparison found, in words that a person can repeat without being wrong."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from evals.decide.comparison import Comparison, Row
from evals.decide.power import POWER

_NARROW = "\u00a0"
"""A space at which no line breaks."""


def sentence(compared: Comparison) -> str:
    """The verdict in one sentence or two."""
    better = [row for row in compared.rows if row.verdict == "better"]
    worse = [row for row in compared.rows if row.verdict == "worse"]
    a, b = compared.a.name, compared.b.name
    sure = f"{1 - compared.alpha:.0%}"
    if better and worse:
        return f"{b} is better than {a} on {_listed(better)} and worse on {_listed(worse)} (each at {sure} confidence)."
    if better or worse:
        what = "better" if better else "worse"
        shown = _listed(better or worse)
        return f"{b} is {what} than {a}, shown on {shown} at {sure} confidence; nothing shows the opposite."
    return f"No evidence either way that {b} is better or worse than {a}. {_would_decide(compared.rows)}"


def _would_decide(rows: list[Row]) -> str:
    closest = min(
        (row for row in rows if row.decides), key=lambda row: (row.decides or 0) / row.documents, default=None
    )
    if closest is None or closest.decides is None:
        return "They do not differ at all on these documents."
    return (
        f"A difference as large as the one seen would be found {POWER:.0%} of the time with {closest.decides:,}"
        f" documents of {closest.name} (there are {closest.documents:,})."
    )


def points(row: Row, value: float | None) -> str:
    """A difference as percentage points, where the metric is a share; else as it is."""
    if value is None:
        return "unknown"
    return f"{value * 100:+.2f}" if row.in_points else f"{value:+.4g}"


def probability(value: float) -> str:
    """A p-value to four places."""
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def table_rows(compared: Comparison, rows: list[Row] | None = None) -> list[dict[str, Any]]:
    """The rows (by default the suites') for a table; differences of shares in percentage points."""
    return [
        {
            "suite": compared.b.label(row.name),
            "metric": row.metric,
            "verdict": row.verdict.replace(" ", _NARROW),
            "B - A": points(row, row.difference),
            "interval": f"{points(row, row.interval[0])}{_NARROW}to{_NARROW}{points(row, row.interval[1])}",
            "p (Holm)": probability(row.adjusted),
            "p": probability(row.p_value),
            "A": round(row.a, 4),
            "B": round(row.b, 4),
            "documents": row.documents,
            "up/down": f"{row.gained:,}/{row.lost:,}",
            "detectable": points(row, row.detectable).removeprefix("+"),
            "would decide": None if row.verdict != "no evidence" else row.decides,
        }
        for row in (compared.rows if rows is None else rows)
    ]


def as_json(compared: Comparison, shown: int | None = None) -> dict[str, Any]:
    """The comparison as plain values.

    Args:
        shown: at most so many flipped documents a suite; by default all.
    """
    return {
        "a": {"name": compared.a.name, "model": compared.a.model, "benchmarks": compared.a.questions},
        "b": {"name": compared.b.name, "model": compared.b.model, "benchmarks": compared.b.questions},
        "alpha": compared.alpha,
        "verdict": compared.verdict,
        "sentence": sentence(compared),
        "rows": [_row(row) for row in compared.rows],
        "tasks": {suite: [_row(row) for row in rows] for suite, rows in compared.tasks.items()},
        "flipped": {
            suite: [
                {
                    "task": flip.key[0],
                    "doc_hash": flip.key[1],
                    "to": "right" if flip.gained else "wrong",
                    "a": flip.a.chosen,
                    "b": flip.b.chosen,
                    "right": flip.a.right,
                }
                for flip in found[:shown]
            ]
            for suite, found in compared.flipped.items()
        },
        "left_out": compared.left_out,
    }


def _row(row: Row) -> dict[str, Any]:
    values = asdict(row)
    values["interval"] = [end if math.isfinite(end) else None for end in row.interval]
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[key] = None
    return values


def _listed(rows: list[Row]) -> str:
    return ", ".join(f"{row.name} ({points(row, row.difference)})" for row in rows)
