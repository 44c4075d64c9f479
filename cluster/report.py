"""Reports for looking: one self-contained HTML page a stage, built from headings, figures, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cluster.charts import Points, bar_chart, line_chart

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d8dee4; --paper: #ffffff; --tint: #f4f6f8;
  --c0: #1769aa; --c1: #c2571a; --c2: #2e7d4f; --c3: #8e3b8a; --c4: #8a6d00; --c5: #4a5568; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #343c45; --paper: #15191e;
  --tint: #1d2329; --c0: #6cb3ef; --c1: #f0935c; --c2: #6fcf97; --c3: #d88ad4; --c4: #e0c04f; --c5: #a0aec0; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 2rem auto; padding: 0 1.25rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
.sub, .note { color: var(--soft) } a { color: var(--c0) }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0 }
.figure { background: var(--tint); border-radius: 6px; padding: .6rem .9rem; min-width: 8rem }
.figure b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.figure span { color: var(--soft); font-size: .85rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; font-size: .85rem } td.n, th.n { text-align: right }
pre { background: var(--tint); padding: .7rem .9rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .82rem; margin: .3rem 0 .9rem }
svg { width: 100%; max-width: 640px; height: auto; display: block; margin: .8rem 0 }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif } svg .title { font-size: 13px; font-weight: 600 }
svg .tick { fill: var(--soft) } svg .grid { stroke: var(--line); stroke-width: 1 }
svg .line { fill: none; stroke-width: 1.8 }
""" + "".join(f".line.c{i} {{ stroke: var(--c{i}) }} .bar.c{i}, .dot.c{i} {{ fill: var(--c{i}) }}\n" for i in range(6))


class Page:
    """An HTML page put together from top to bottom.

    Args:
        title: the heading.
        subtitle: a line below it: what, from what.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f"<p class=sub>{escape(subtitle)}</p>")

    def heading(self, text: str) -> None:
        """A section's heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def figures(self, values: Mapping[str, Any]) -> None:
        """A row of labelled figures."""
        boxes = "".join(
            f"<div class=figure><b>{escape(_show(value))}</b><span>{escape(label)}</span></div>"
            for label, value in values.items()
        )
        self._parts.append(f"<div class=figures>{boxes}</div>")

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
        """Rows under the columns' names; numbers stand to the right."""
        if not rows:
            self._parts.append("<p class=note>None.</p>")
            return
        names = list(columns or rows[0])
        number = [all(isinstance(row.get(name), (int, float, type(None))) for row in rows) for name in names]
        marks = [" class=n" if each else "" for each in number]
        head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(names, marks, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f"<td{m}>{escape(_show(row.get(n)))}</td>" for n, m in zip(names, marks, strict=True))
            + "</tr>"
            for row in rows
        )
        self._parts.append(f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>")

    def line_chart(self, title: str, series: Mapping[str, Points], x_label: str, y_label: str) -> None:
        """Curves; see :func:`cluster.charts.line_chart`."""
        self._parts.append(line_chart(title, series, x_label, y_label))

    def bar_chart(self, title: str, values: Mapping[str, float], unit: str = "") -> None:
        """Bars; see :func:`cluster.charts.bar_chart`."""
        self._parts.append(bar_chart(title, values, unit))

    def chart(self, svg: str) -> None:
        """A chart that is made already; see :mod:`cluster.charts_scores`."""
        self._parts.append(svg)

    def sample(self, label: str, text: str, limit: int = 700) -> None:
        """A labelled piece of text, cut at ``limit`` characters."""
        shown = text if len(text) <= limit else text[:limit] + f" … ({len(text):,} characters)"
        self._parts.append(f"<p class=note>{escape(label)}</p><pre>{escape(shown)}</pre>")

    def links(self, targets: Mapping[str, str]) -> None:
        """A list of links: label -> address, relative to the page."""
        items = "".join(
            f'<li><a href="{escape(to, quote=True)}">{escape(label)}</a></li>' for label, to in targets.items()
        )
        self._parts.append(f"<ul>{items}</ul>")

    def render(self) -> str:
        """The whole page."""
        return (
            '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style><body>{''.join(self._parts)}</body></html>\n"
        )


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
