"""Charts of scores with their uncertainty, as inline SVG: bars with intervals, differences beside zero, radar."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

from cluster.charts import WIDTH

LABEL_WIDTH = 220
VALUE_WIDTH = 96
TOP = 46
COLOURS = 6


def interval_bars(title: str, scores: Mapping[str, Mapping[str, Sequence[float | None]]], unit: str = "") -> str:
    """Horizontal bars with whiskers, grouped: label -> series -> (value, low, high, mark), all at least 0.

    The mark is a short line across the bar, such as the level of guessing; low, high and mark may be None.
    """
    rows = [(label, name, values) for label, series in scores.items() for name, values in series.items()]
    if not rows:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    names = list(dict.fromkeys(name for _, name, _ in rows))
    thick, gap = (16, 8) if len(names) == 1 else (11, 9)
    height = TOP + sum(thick * len(series) + gap for series in scores.values()) + 22
    top = max(value for _, _, values in rows for value in values if value is not None and math.isfinite(value))
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / (_ceiling(top) or 1.0)
    parts = [_frame(title, height, names if len(names) > 1 else [])]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = LABEL_WIDTH + tick * _ceiling(top) * scale
        parts.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1={TOP - 6} y2={height - 18} />')
        parts.append(_text(x, height - 5, f"{tick * _ceiling(top):.3g}{unit}", "middle"))
    y = TOP
    for label, series in scores.items():
        parts.append(_text(LABEL_WIDTH - 8, y + thick * len(series) / 2 + 4, _short(label), "end"))
        for name, values in series.items():
            value, low, high, mark = (*values, None, None, None)[:4]
            parts.append(_bar(y, thick, value or 0.0, low, high, mark, scale, names.index(name)))
            y += thick
        y += gap
    return "".join(parts) + "</svg>"


def _bar(
    y: float,
    thick: float,
    value: float,
    low: float | None,
    high: float | None,
    mark: float | None,
    scale: float,
    colour: int,
) -> str:
    left, middle = LABEL_WIDTH, y + thick / 2
    end = left + value * scale
    parts = [
        f'<rect class="bar c{colour % COLOURS}" opacity=0.75 x={left} y="{y:.1f}" width="{max(value * scale, 1):.1f}"'
        f' height="{thick - 2}" rx=2 />'
    ]
    if low is not None and high is not None:
        x1, x2 = left + max(low, 0.0) * scale, left + high * scale
        parts.append(
            f'<path d="M{x1:.1f} {middle - 4:.1f}v6M{x1:.1f} {middle - 1:.1f}H{x2:.1f}M{x2:.1f} {middle - 4:.1f}v6"'
            " fill=none stroke=var(--ink) stroke-width=1.2 />"
        )
        end = max(end, x2)
    if mark is not None:
        x = left + mark * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 1:.1f}" y2="{y + thick - 1:.1f}" stroke=var(--soft)'
            ' stroke-width=2 stroke-dasharray="2 2" />'
        )
    parts.append(_text(end + 6, middle + 3, f"{value:.3g}", "start"))
    return "".join(parts)


def difference_chart(
    title: str,
    differences: Mapping[str, tuple[float, float, float]],
    shown: Collection[str],
    row: int = 17,
    better: Collection[str] | None = None,
) -> str:
    """One line an entry: a dot for the difference, a bar for its interval (value, low, high), zero in the middle.

    Those named in ``shown`` are in colour: green where named in ``better``; without it, where above zero.
    """
    if not differences:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    finite = [abs(v) for values in differences.values() for v in values if math.isfinite(v)]
    reach = _ceiling(max(finite, default=1.0) or 1.0)
    half = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / 2
    zero = LABEL_WIDTH + half
    height = TOP + row * len(differences) + 22
    parts = [_frame(title, height, [])]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = zero + tick * half
        parts.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1={TOP - 8} y2={height - 18} />')
        parts.append(_text(x, height - 5, f"{tick * reach:+.3g}" if tick else "0", "middle"))
    parts.append(f'<line x1="{zero}" x2="{zero}" y1={TOP - 8} y2={height - 18} stroke=var(--soft) />')
    for index, (label, (value, low, high)) in enumerate(differences.items()):
        y = TOP + index * row + row / 2
        good = value > 0 if better is None else label in better
        colour = 5 if label not in shown else 2 if good else 1
        ends = [zero + max(-1.0, min(1.0, end / reach)) * half for end in (low, high)]
        parts.append(_text(LABEL_WIDTH - 8, y + 4, _short(label), "end"))
        parts.append(f'<line class="line c{colour}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}" />')
        parts.append(f'<circle class="dot c{colour}" cx="{zero + value / reach * half:.1f}" cy="{y:.1f}" r=3.2 />')
        parts.append(_text(WIDTH - VALUE_WIDTH + 12, y + 4, f"{value:+.3g}", "start"))
    return "".join(parts) + "</svg>"


def radar_chart(title: str, series: Mapping[str, Mapping[str, float]]) -> str:
    """Models over the same axes: series -> axis -> value within 0 and 1; at least three axes make an area."""
    axes = list(next(iter(series.values()), {}))
    if len(axes) < 3:
        return f"<p class=note>{escape(title)}: fewer than three suites make no area.</p>"
    radius, middle_x, middle_y, height = 120.0, WIDTH / 2, 190.0, 350
    reach = _ceiling(max(value for values in series.values() for value in values.values()) or 1.0)

    def place(index: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * index / len(axes) - math.pi / 2
        return middle_x + share * radius * math.cos(angle), middle_y + share * radius * math.sin(angle)

    def outline(shares: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(i, share) for i, share in enumerate(shares)))

    parts = [_frame(title, height, list(series))]
    for ring in (0.25, 0.5, 0.75, 1.0):
        parts.append(f'<polygon class=grid fill=none points="{outline([ring] * len(axes))}" />')
        parts.append(_text(middle_x + 4, middle_y - ring * radius - 2, f"{ring * reach:.2g}", "start"))
    for index, axis in enumerate(axes):
        x, y = place(index, 1.0)
        parts.append(f'<line class=grid x1="{middle_x}" y1="{middle_y}" x2="{x:.1f}" y2="{y:.1f}" />')
        out_x, out_y = place(index, 1.14)
        anchor = "middle" if abs(out_x - middle_x) < 12 else "start" if out_x > middle_x else "end"
        parts.append(_text(out_x, out_y + 4, axis, anchor))
    for index, (name, values) in enumerate(series.items()):
        shares = [max(values[axis], 0.0) / reach for axis in axes]
        parts.append(
            f'<polygon class="line c{index % COLOURS}" fill-opacity=0.12 style="fill: var(--c{index % COLOURS})"'
            f' points="{outline(shares)}"><title>{escape(name)}</title></polygon>'
        )
    return "".join(parts) + "</svg>"


def _frame(title: str, height: float, names: Sequence[str]) -> str:
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role=img aria-label="{escape(title, quote=True)}">',
        f"<text class=title x=0 y=16>{escape(title)}</text>",
    ]
    x = LABEL_WIDTH
    for index, name in enumerate(names):
        parts.append(f'<rect class="bar c{index % COLOURS}" opacity=0.75 x={x} y=24 width=12 height=9 rx=2 />')
        parts.append(_text(x + 17, 33, _short(name), "start"))
        x += 30 + 7 * min(len(name), 34)
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class=tick x="{x:.1f}" y="{y:.1f}" text-anchor={anchor}>{escape(text)}</text>'


def _short(label: str) -> str:
    return label if len(label) <= 34 else label[:33] + "…"


def _ceiling(value: float) -> float:
    """The next round number from a value up."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        power * factor for factor in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * factor >= value * 0.999
    )
