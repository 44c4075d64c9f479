"""The page of a comparison: the verdict first, then the numbers, the pictures, and what changed its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.charts_scores import difference_chart, interval_bars, radar_chart
from cluster.report import Page
from evals.decide.comparison import AVERAGE, Comparison, Flip, Row
from evals.decide.reading import Measured
from evals.decide.words import sentence, table_rows
from evals.intervals import interval
from evals.reproduce import stock_command

SHOWN_FLIPPED = 5


def comparison_page(compared: Comparison) -> Page:
    """The whole page."""
    page = Page(f"{compared.b.name} against {compared.a.name}", f"A: {compared.a.model}; B: {compared.b.model}")
    add_comparison(page, compared)
    return page


def add_comparison(page: Page, compared: Comparison) -> None:
    """All that a comparison says, below what a page holds already."""
    a, b = compared.a, compared.b
    page.heading("Verdict")
    page.paragraph(sentence(compared))
    documents = sum(row.documents for row in compared.rows if row.name != AVERAGE)
    page.figures(
        {"verdict": compared.verdict, "documents compared": documents, "confidence": f"{1 - compared.alpha:.0%}"}
        | {f"{row.name}: B − A": f"{row.difference:+.4f}" for row in compared.rows if row.name == AVERAGE}
    )
    page.heading("Suites")
    page.table(table_rows(compared))
    page.paragraph(
        "B − A in percentage points (of what is no share: in the metric's own unit), its interval uncorrected."
        " p: McNemar's exact test where every answer is right or wrong, else the paired bootstrap,"
        " within subjects where there are several. p (Holm): corrected for all rows"
        f" of the table; a verdict needs it at or below {compared.alpha:g}. Detectable: the true difference that these"
        " documents would have shown four times in five. Would decide: so many would show a difference like this one"
        " four times in five."
    )
    for line in compared.left_out:
        page.paragraph(f"Not compared: {line}.")
    shares = [row for row in compared.rows if row.name != AVERAGE and row.in_points]
    page.chart(interval_bars("Scores with 95 % intervals", {b.label(row.name): _bars(compared, row) for row in shares}))
    _differences(page, compared.rows)
    shares = [row for row in shares if row.side > 0]
    if len(shares) > 2:
        page.chart(
            radar_chart(
                "Suite by suite",
                {
                    f"A: {a.name}": {row.name: row.a for row in shares},
                    f"B: {b.name}": {row.name: row.b for row in shares},
                },
            )
        )
    for suite, rows in compared.tasks.items():
        page.heading(f"{suite} by task")
        _differences(page, rows)
        page.paragraph(
            f"Corrected among the {len(rows)} tasks alone, for looking: of so many, one may stand out by chance."
        )
        page.table(table_rows(compared, rows))
    _contamination(page, compared)
    page.heading("Answers that changed")
    for suite, flipped in compared.flipped.items():
        _flipped(page, suite, flipped)
    for each, side in ((a, "A"), (b, "B")):
        page.heading(f"Settings of {side}: {each.name}")
        page.table([{"setting": name, "value": str(value)} for name, value in each.results["settings"].items()])
        page.sample("the stock harness's command for it", stock_command(each.results), limit=2000)


def _bars(compared: Comparison, row: Row) -> dict[str, list[float | None]]:
    return {
        f"A: {compared.a.name}": _score(compared.a, row, row.a),
        f"B: {compared.b.name}": _score(compared.b, row, row.b),
    }


def _score(measured: Measured, row: Row, value: float) -> list[float | None]:
    """(score, low, high, chance): as the evaluation reported it, where the same documents are behind it."""
    figures: Mapping[str, Any] = measured.results["tasks"].get(row.name, {}).get(row.metric) or {}
    chance = figures.get("chance")
    if figures.get("n") == row.documents and figures.get("interval_95"):
        return [value, *figures["interval_95"], chance]
    shares = [d.metrics[row.metric] for d in measured.suites[row.name].values() if row.metric in d.metrics]
    bounds = interval(shares, value, None)
    return [value, *(bounds or (None, None)), chance]


def _differences(page: Page, rows: list[Row]) -> None:
    rows = [row for row in rows if row.in_points]
    if not rows:
        return
    told = {row.name for row in rows if row.verdict in ("better", "worse")}
    better = {row.name for row in rows if row.verdict == "better"}
    values = {row.name: (100 * row.difference, 100 * row.interval[0], 100 * row.interval[1]) for row in rows}
    page.chart(difference_chart("B − A, percentage points; green: shown to be better", values, told, better=better))


def _contamination(page: Page, compared: Comparison) -> None:
    found = [each.results.get("contamination") for each in (compared.a, compared.b)]
    if not any(found):
        return
    page.heading("Contamination of the training text")

    def left(account: Any, name: str) -> str:
        counts = (account or {}).get("suites", {}).get(name) or (account or {}).get("tasks", {}).get(name)
        return f"{counts['left_rate']:.1%} of {counts['questions']:,}" if counts else "not looked for"

    page.table(
        [
            {"suite": row.name, "A: questions left in it": left(found[0], row.name), "B": left(found[1], row.name)}
            for row in compared.rows
            if row.name != AVERAGE
        ]
    )


def _flipped(page: Page, suite: str, flipped: list[Flip]) -> None:
    gained = [each for each in flipped if each.gained]
    lost = [each for each in flipped if not each.gained]
    page.paragraph(f"{suite}: {len(gained):,} became right, {len(lost):,} became wrong.")
    for words, some in (("became right", gained), ("became wrong", lost)):
        for flip in some[:SHOWN_FLIPPED]:
            task, doc_hash, _ = flip.key
            ends = [f"right: {flip.a.right}", f"A:     {flip.a.chosen}", f"B:     {flip.b.chosen}"]
            page.sample(f"{task} {doc_hash[:12]} {words}", "\n".join([flip.a.prompt, "", *ends]), limit=1600)
