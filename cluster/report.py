"""Reports for looking: one self-contained HTML page a stage, built from headings, figures, tables and charts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from cluster.charts import Histogram, Points, bar_chart, draw_histogram, line_chart, paired_bars
from cluster.charts_parallel import Axis, parallel_coordinates

Marked = tuple[str, bool]
"""A piece of text, and whether it is marked."""

_HIDDEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"
    "\\ufdd0-\\ufdef\\ufffe\\uffff\\ud800-\\udfff]"
)
"""What HTML forbids or no eye can see: controls, and marks that turn the direction of the text behind them."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d8dee4; --paper: #ffffff; --tint: #f4f6f8;
  --c0: #1769aa; --c1: #c2571a; --c2: #2e7d4f; --c3: #8e3b8a; --c4: #8a6d00; --c5: #4a5568; --mark: #ffe2b8; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #343c45;
  --paper: #15191e; --tint: #1d2329; --c0: #6cb3ef; --c1: #f0935c; --c2: #6fcf97; --c3: #d88ad4; --c4: #e0c04f;
  --c5: #a0aec0; --mark: #5a3a12; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 2rem auto; padding: 0 1.25rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
.sub, .note { color: var(--soft) } a { color: var(--c0) }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0 }
.figure { background: var(--tint); border-radius: 6px; padding: .6rem .9rem; min-width: 8rem }
.figure b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.figure span { color: var(--soft); font-size: .85rem }
.scroll { overflow-x: auto } .scroll > svg { min-width: 34rem }
table { font-size: .93em; border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; font-size: .87em } td.n, th.n { text-align: right }
td.n { white-space: nowrap }
pre { background: var(--tint); padding: .7rem .9rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .87em; margin: .3rem 0 .9rem }
mark { color: inherit; background: var(--mark); border-bottom: 2px solid var(--c1); border-radius: 2px }
details { margin: .4rem 0 } summary { cursor: pointer; color: var(--soft) }
details.part > summary { color: var(--ink); font-weight: 600; margin-top: .9rem }
.specimen { border-left: 3px solid var(--line); padding-left: .8rem; margin: .6rem 0 1rem }
.specimen p { margin: .1rem 0 } .specimen pre { margin: .3rem 0; max-height: 15rem; overflow-y: auto }
.label { overflow-wrap: anywhere; font-size: .87em }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: .8rem }
.beside > div { min-width: 0 }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: .4rem 1.5rem }
.grid > * { min-width: 0 } .grid .scroll > svg { min-width: 18rem; max-width: 30rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
nav { font-size: .9rem } nav a { margin-right: 1rem; white-space: nowrap }
svg { width: 100%; max-width: 640px; height: auto; display: block; margin: .8rem 0 }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif } svg .title { font-size: 13px; font-weight: 600 }
svg .tick { fill: var(--soft) } svg .grid { stroke: var(--line); stroke-width: 1 }
svg .line { fill: none; stroke-width: 1.8 } svg .behind { opacity: .45 }
svg .limit { stroke: var(--c1); stroke-width: 1.5; stroke-dasharray: 4 3 }
@media (max-width: 45rem) { .scroll > table { width: max-content } .scroll td { max-width: 20rem } }
@media print { body { max-width: none; margin: 0; font-size: 11px } nav { display: none }
  svg, .specimen, .figure, tr { break-inside: avoid } h2, summary { break-after: avoid } .scroll { overflow: visible }
  .specimen pre { max-height: none } table { font-size: 9px } td:not(.n) { overflow-wrap: anywhere }
  mark { print-color-adjust: exact } details::details-content { content-visibility: visible; display: block } }
""" + "".join(f".line.c{i} {{ stroke: var(--c{i}) }} .bar.c{i}, .dot.c{i} {{ fill: var(--c{i}) }}\n" for i in range(6))

_SHARE = re.compile(r"(?:-?[\d.,]+ ?%)?")
_HEADINGS_WITH_LINKS = 6


class Page:
    """An HTML page put together from top to bottom.

    Args:
        title: the heading.
        subtitle: a line below it: what, from what.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._headings: list[str] = []
        self._parts = [f"<h1>{_visible(title)}</h1>"]
        if subtitle:
            self._parts.append(f"<p class=sub>{_visible(subtitle)}</p>")
        self._head = len(self._parts)

    def heading(self, text: str) -> None:
        """A section's heading."""
        self._headings.append(text)
        self._parts.append(f"<h2 id=part-{len(self._headings)}>{escape(text)}</h2>")

    def subheading(self, text: str) -> None:
        """A heading within a section."""
        self._parts.append(f"<h3>{escape(text)}</h3>")

    @contextmanager
    def grid(self) -> Iterator[None]:
        """What is added inside stands side by side where there is room."""
        self._parts.append("<div class=grid>")
        yield
        self._parts.append("</div>")

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{_visible(text)}</p>")

    def figures(self, values: Mapping[str, Any]) -> None:
        """A row of labelled figures."""
        boxes = "".join(
            f"<div class=figure><b>{escape(_show(value))}</b><span>{escape(label)}</span></div>"
            for label, value in values.items()
        )
        self._parts.append(f"<div class=figures>{boxes}</div>")

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, most: int | None = None
    ) -> None:
        """Rows under the columns' names; numbers stand to the right.

        Args:
            columns: which, and in what order; by default those of the first row.
            most: rows that are shown; a line says how many more there are.
        """
        more = len(rows) - most if most is not None and len(rows) > most else 0
        rows = rows[: len(rows) - more]
        if not rows:
            self._parts.append("<p class=note>None.</p>")
            return
        names = list(columns or rows[0])
        number = [all(_is_number(row.get(name)) for row in rows) for name in names]
        marks = [" class=n" if each else "" for each in number]
        head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(names, marks, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f"<td{m}>{_visible(_show(row.get(n)))}</td>" for n, m in zip(names, marks, strict=True))
            + "</tr>"
            for row in rows
        )
        self._parts.append(f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>")
        if more:
            self._parts.append(f"<p class=note>And {more:,} more.</p>")

    def line_chart(self, title: str, series: Mapping[str, Points], x_label: str, y_label: str) -> None:
        """Curves; see :func:`cluster.charts.line_chart`."""
        self._chart(line_chart(title, series, x_label, y_label))

    def bar_chart(self, title: str, values: Mapping[str, float], unit: str = "") -> None:
        """Bars; see :func:`cluster.charts.bar_chart`."""
        self._chart(bar_chart(title, values, unit))

    def paired_bars(
        self, title: str, values: Mapping[str, Sequence[float]], names: Sequence[str], unit: str = ""
    ) -> None:
        """Bars of several series; see :func:`cluster.charts.paired_bars`."""
        self._chart(paired_bars(title, values, names, unit))

    def histogram(self, title: str, histogram: Histogram) -> None:
        """Columns over a scale; see :func:`cluster.charts.histogram`."""
        self._chart(draw_histogram(title, histogram))

    def parallel_coordinates(
        self, title: str, axes: Sequence[Axis], names: Sequence[str], best: int | None = None
    ) -> None:
        """A line a trial; see :func:`cluster.charts_parallel.parallel_coordinates`."""
        self._chart(parallel_coordinates(title, axes, names, best))

    def _chart(self, svg: str) -> None:
        self._parts.append(f"<div class=scroll>{svg}</div>")

    def specimen(self, label: str, note: str, columns: Sequence[tuple[str, Sequence[Marked]]]) -> None:
        """A document to look at: what it is, what is wrong with it, and a column for each text that is compared.

        Args:
            columns: of each text a heading (may be empty) and its pieces; a true piece is marked.
        """
        shown = "".join(
            f"<div>{f'<p class=note>{_isolated(heading)}</p>' if heading else ''}<pre dir=auto>"
            + "".join(f"<mark>{_visible(text)}</mark>" if marked else _visible(text) for text, marked in pieces)
            + "</pre></div>"
            for heading, pieces in columns
        )
        self._parts.append(
            f"<div class=specimen><p class='note label'>{_isolated(label)}</p><p>{_visible(note)}</p>"
            f"<div class=beside>{shown}</div></div>"
        )

    @contextmanager
    def folded(self, title: str, *, is_open: bool = False, is_part: bool = False) -> Iterator[None]:
        """What is added inside is shown when its title is clicked (printed always).

        Args:
            is_open: shown from the beginning.
            is_part: a part of the page, not a remark.
        """
        attributes = (" class=part" if is_part else "") + (" open" if is_open else "")
        self._parts.append(f"<details{attributes}><summary>{_visible(title)}</summary>")
        yield
        self._parts.append("</details>")

    def chart(self, svg: str) -> None:
        """A chart that is made already; see :mod:`cluster.charts_scores`."""
        self._parts.append(svg)

    def sample(self, label: str, text: str, limit: int = 700) -> None:
        """A labelled piece of text, cut at ``limit`` characters."""
        shown = text if len(text) <= limit else text[:limit] + f" … ({len(text):,} characters)"
        self._parts.append(f"<p class='note label'>{_isolated(label)}</p><pre dir=auto>{_visible(shown)}</pre>")

    def links(self, targets: Mapping[str, str]) -> None:
        """A list of links: label -> address, relative to the page."""
        items = "".join(
            f'<li><a href="{escape(to, quote=True)}">{escape(label)}</a></li>' for label, to in targets.items()
        )
        self._parts.append(f"<ul>{items}</ul>")

    def render(self) -> str:
        """The whole page; with many headings, links to them behind the title."""
        contents = ""
        if len(self._headings) >= _HEADINGS_WITH_LINKS:
            links = (f"<a href=#part-{number}>{escape(text)}</a> " for number, text in enumerate(self._headings, 1))
            contents = f"<nav aria-label=Contents>{''.join(links)}</nav>"
        head, parts = self._parts[: self._head], self._parts[self._head :]
        return (
            '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style><body>{''.join(head)}{contents}{''.join(parts)}</body></html>\n"
        )


def _visible(text: str) -> str:
    """HTML of a text; hidden characters are shown by their numbers, since they would change what stands around them."""
    return escape(_HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text.replace("\r\n", "\n")))


def _isolated(text: str) -> str:
    """HTML of a text that may be written from right to left within a line that is not."""
    return f"<bdi>{_visible(text)}</bdi>"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, type(None))) or (isinstance(value, str) and bool(_SHARE.fullmatch(value)))


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
