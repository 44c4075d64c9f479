"""The report's plots of the documents before and after: length, language, what the rules measure."""

from __future__ import annotations

import math
import operator
from collections import Counter

from cluster.charts import Histogram
from cluster.report import Page
from pipelines.curate.config import CurateConfig
from pipelines.curate.funnel import Funnel
from pipelines.curate.marks.meaning import meaning
from pipelines.curate.survey import COLUMNS, Scale, scales
from pipelines.curate.tally import NOT_KNOWN

BEFORE, AFTER = "before", "after"
SHOWN_BARS = 12
_SMALL = 420


def distributions_section(page: Page, config: CurateConfig, funnel: Funnel) -> None:
    """Add the plots."""
    page.heading("Before and after")
    _lengths(page, funnel)
    _languages(page, config, funnel)
    for field in ("source", "kind", "licence"):
        counts = {row[field]: (row["documents in"], row["documents kept"]) for row in funnel.table(field)}
        if len(counts) > 1 or field == "source":
            page.paired_bars(f"Documents by {field}", _most(counts), (BEFORE, AFTER))
    _measured(page, config, funnel)


def _lengths(page: Page, funnel: Funnel) -> None:
    before, after = funnel.before.lengths, +funnel.after.lengths
    if not before:
        return
    bits = range(min(before), max([*before, *after]) + 1)
    labels = [_short(2 ** (bit - 1)) if bit else "0" for bit in bits]
    series = {BEFORE: [before[bit] for bit in bits], AFTER: [after[bit] for bit in bits]}
    page.histogram(
        "Documents by length",
        Histogram(labels, series, "characters, from the number shown up to the next", "documents"),
    )
    page.paragraph(
        f"Half of the documents have fewer than {_median(before)} characters before, {_median(after)} after."
    )


def _median(lengths: Counter[int]) -> str:
    half, seen = sum(lengths.values()) / 2, 0
    for bit in sorted(lengths):
        seen += lengths[bit]
        if seen >= half:
            return f"{2**bit:,}"
    return "0"


def _languages(page: Page, config: CurateConfig, funnel: Funnel) -> None:
    if config.language:
        before, after = funnel.before.languages, +funnel.after.languages
        said = f"Identified in every document that comes so far; {NOT_KNOWN}: dropped before, and not declared."
        unit = ""
    else:
        surveyed = funnel.surveyed_before
        before, after = surveyed.languages, +funnel.surveyed_after.languages
        said = (
            "This recipe keeps all languages and identifies none (curate.language is empty): these were identified "
            f"for the report in {surveyed.documents:,} documents chosen by their ids."
        )
        unit = "sampled documents"
    often = sorted(before.items(), key=lambda each: (-each[1], each[0]))
    page.paired_bars(
        "Documents by language", _most({name: (count, after[name]) for name, count in often}), (BEFORE, AFTER), unit
    )
    page.paragraph(said)


def _most(counts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The first of them, and all others together."""
    shown = dict(list(counts.items())[:SHOWN_BARS])
    rest = [each for name, each in counts.items() if name not in shown]
    if rest:
        shown[f"{len(rest):,} others"] = (sum(before for before, _ in rest), sum(after for _, after in rest))
    return shown


def _measured(page: Page, config: CurateConfig, funnel: Funnel) -> None:
    """What each rule measures, with its limits."""
    before, after = funnel.surveyed_before, funnel.surveyed_after
    every = scales(config)
    if not every or not before.documents:
        return
    page.subheading("What the quality rules measure")
    whole = "all" if before.documents == funnel.documents_in else f"of {funnel.documents_in:,}, chosen by their ids,"
    page.paragraph(
        f"Measured in {before.documents:,} documents ({whole} before; {after.documents:,} of them are kept), each "
        "as it came in and as it was published. The dashed line is the recipe's limit; the last column is open."
    )
    for step in dict.fromkeys(score.partition(".")[0] for score in every):
        page.subheading(step)
        with page.grid():
            for score, scale in every.items():
                if score.partition(".")[0] == step:
                    heights = {BEFORE: before.heights(score), AFTER: after.heights(score)}
                    page.histogram(_capital(meaning(scale.limits[0].reason)), _drawn(score, scale, heights))


def _drawn(score: str, scale: Scale, heights: dict[str, list[int]]) -> Histogram:
    limits = [(scale.place(each.limit), _bound(each.breaks is operator.gt, each.limit)) for each in scale.limits]
    used = _used(heights, limits)
    return Histogram(
        [_short(scale.begins(column)) for column in range(used)],
        {name: each[:used] for name, each in heights.items()},
        score.partition(".")[2].replace("_", " "),
        "documents (logarithmic)",
        limits,
        width=_SMALL,
        logarithmic=True,
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _used(heights: dict[str, list[int]], limits: list[tuple[float, str]]) -> int:
    """Columns up to the last that holds anything or a limit."""
    filled = max((at + 1 for each in heights.values() for at, height in enumerate(each) if height), default=1)
    return min(COLUMNS, max(filled, *(math.ceil(place) + 1 for place, _ in limits)))


def _bound(most: bool, limit: float) -> str:
    return f"{'at most' if most else 'at least'} {_short(limit)}"


def _short(value: float) -> str:
    """A number in at most five characters or so."""
    for power, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")):
        if value >= power and value % power == 0:
            return f"{value / power:g}{letter}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
