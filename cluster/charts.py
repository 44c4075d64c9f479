"""Line charts, bars and histograms as inline SVG: no script, no network, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 44
_KEY_LINE = 16

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Histogram:
    """Columns side by side.

    Attributes:
        labels: what each column begins with; they stand at its left edge.
        series: name -> height of each column; the first series stands behind the others.
        limits: vertical lines: place, as a number of columns from the left, and what it says.
        width: of the drawing; text is as large in a narrow one.
        logarithmic: heights are counts, drawn so that 1 and 10,000 can both be seen.
        logarithmic: heights are counts, drawn so that 1 and 10,000 can both be seen.
    """

    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str
    limits: Sequence[tuple[float, str]] = field(default=())
    width: int = WIDTH
    logarithmic: bool = False


def line_chart(title: str, series: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """Curves over a common x axis, one for each named series of (x, y); values that are not finite are left out."""
    cleaned = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    cleaned = {name: points for name, points in cleaned.items() if points}
    if not cleaned:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    xs = [x for points in cleaned.values() for x, _ in points]
    ys = [y for points in cleaned.values() for _, y in points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))
    x_low, x_high = min(xs[0], x_ticks[0], *xs), max(x_ticks[-1], *xs, xs[0])
    y_low, y_high = min(y_ticks[0], *ys, ys[0]), max(y_ticks[-1], *ys, ys[0])

    def place_x(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def place_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [_frame(title, x_label, y_label)]
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(f'<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1="{y:.1f}" y2="{y:.1f}" />')
        parts.append(f'<text class=tick x={LEFT - 6} y="{y + 4:.1f}" text-anchor=end>{_tick(tick)}</text>')
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(f'<text class=tick x="{x:.1f}" y={HEIGHT - BOTTOM + 16} text-anchor=middle>{_tick(tick)}</text>')
    legend_x = WIDTH - RIGHT
    for index, (name, points) in reversed(list(enumerate(cleaned.items()))):
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{index % 6}" points="{path}"><title>{escape(name)}</title></polyline>')
        if len(points) == 1:
            ((x, y),) = points
            parts.append(f'<circle class="dot c{index % 6}" cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r=3 />')
        legend_x -= 34 + 7 * len(name)
        parts.append(_legend(index, name, legend_x))
    return "".join(parts) + "</svg>"


def bar_chart(title: str, values: Mapping[str, float], unit: str = "") -> str:
    """One horizontal bar a label, in the order given, with its value at its end."""
    if not values:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    row, label_width = 22, 260
    height = TOP + row * len(values) + 8
    widest = max([abs(value) for value in values.values()]) or 1.0
    scale = (WIDTH - label_width - 110) / widest
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role=img aria-label="{escape(title, quote=True)}">',
        f"<text class=title x=0 y=16>{escape(title)}</text>",
    ]
    for index, (label, value) in enumerate(values.items()):
        y = TOP + index * row
        width = max(abs(value) * scale, 1.0)
        shown = label if len(label) <= 38 else label[:37] + "…"  # as many as fit where all of them are wide
        whole = f"<title>{escape(label)}</title>" if shown != label else ""
        parts.append(f"<text class=tick x={label_width - 8} y={y + 14} text-anchor=end>{whole}{escape(shown)}</text>")
        parts.append(f'<rect class="bar c0" x={label_width} y={y + 3} width="{width:.1f}" height={row - 7} rx=2 />')
        parts.append(
            f'<text class=tick x="{label_width + width + 6:.1f}" y={y + 14}>{_tick(value)} {escape(unit)}</text>'
        )
    return "".join(parts) + "</svg>"


def paired_bars(title: str, values: Mapping[str, Sequence[float]], names: Sequence[str], unit: str = "") -> str:
    """For each label one horizontal bar of every series, one below the other, with its value at its end.

    Args:
        values: label -> a value of each series.
        names: of the series, in that order.
    """
    if not values:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    unit = f" ({unit})" if unit else ""
    thick, label_width = 13, 200
    row = thick * len(names) + 10
    height = TOP + 18 + row * len(values)
    widest = max((abs(value) for each in values.values() for value in each), default=0.0) or 1.0
    scale = (WIDTH - label_width - 90) / widest
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role=img aria-label="{escape(title, quote=True)}">',
        f"<text class=title x=0 y=16>{escape(title + unit)}</text>",
    ]
    for number, name in enumerate(names):
        parts.append(_key(number, len(names), name, label_width + 70 * number, 32))
    for index, (label, each) in enumerate(values.items()):
        y = TOP + 14 + index * row
        shown = label if len(label) <= 29 else label[:28] + "…"
        parts.append(
            f'<text class=tick x={label_width - 8} y="{y + row / 2 + 1:.1f}" text-anchor=end>{escape(shown)}</text>'
        )
        for number, (name, value) in enumerate(zip(names, each, strict=True)):
            top, width = y + 3 + number * thick, max(abs(value) * scale, 1.0 if value else 0.0)
            parts.append(
                f'<rect class="{_colour(number, len(names))}" x={label_width} y={top} width="{width:.1f}" '
                f"height={thick - 2}><title>{escape(f'{label}, {name}: {value:,.6g}')}</title></rect>"
                f'<text class=tick x="{label_width + width + 6:.1f}" y={top + 10}>{_tick(value)}</text>'
            )
    return "".join(parts) + "</svg>"


def draw_histogram(title: str, histogram: Histogram) -> str:
    """Columns of every series in the same places, the later ones narrower and in front."""
    columns, width = len(histogram.labels), histogram.width
    highest = max((value for each in histogram.series.values() for value in each), default=0.0)
    if not columns or highest <= 0:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    y_ticks = _powers(highest) if histogram.logarithmic else _ticks(0.0, highest)
    step = (width - LEFT - RIGHT) / columns
    ceiling, floor = TOP + _KEY_LINE, HEIGHT - BOTTOM
    room = floor - ceiling

    def height(value: float) -> float:
        if histogram.logarithmic:
            return math.log10(1 + value) / math.log10(1 + y_ticks[-1]) * room
        return value / y_ticks[-1] * room

    parts = [_frame(title, histogram.x_label, histogram.y_label, width)]
    for tick in y_ticks:
        y = floor - height(tick)
        parts.append(f'<line class=grid x1={LEFT} x2={width - RIGHT} y1="{y:.1f}" y2="{y:.1f}" />')
        parts.append(f'<text class=tick x={LEFT - 6} y="{y + 4:.1f}" text-anchor=end>{_tick(tick)}</text>')
    for number, (name, heights) in enumerate(histogram.series.items()):
        inset = step * (0.06 + 0.2 * min(number, 2))
        for at, (label, value) in enumerate(zip(histogram.labels, heights, strict=True)):
            if value > 0:
                tall = max(height(value), 1.0)
                parts.append(
                    f'<rect class="{_colour(number, len(histogram.series))}" x="{LEFT + at * step + inset:.1f}" '
                    f'y="{floor - tall:.1f}" width="{step - 2 * inset:.1f}" height="{tall:.1f}">'
                    f"<title>{escape(f'from {label}, {name}: {value:,.6g}')}</title></rect>"
                )
    every = max(1, math.ceil((max(map(len, histogram.labels)) * 6.5 + 8) / step))
    for at in range(0, columns, every):
        x, label = LEFT + at * step, escape(histogram.labels[at])
        parts.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1={floor} y2={floor + 4} />')
        parts.append(f'<text class=tick x="{x:.1f}" y={floor + 16} text-anchor=middle>{label}</text>')
    for number, (place, says) in enumerate(histogram.limits):
        x, y = LEFT + place * step, ceiling + 9 + 13 * number
        side, shift = ("end", -4) if place > columns / 2 else ("start", 4)
        parts.append(f'<line class=limit x1="{x:.1f}" x2="{x:.1f}" y1={ceiling} y2={floor} />')
        parts.append(f'<text class=tick x="{x + shift:.1f}" y={y} text-anchor={side}>{escape(says)}</text>')
    for number, name in enumerate(histogram.series):
        parts.append(_key(number, len(histogram.series), name, LEFT + 70 * number, TOP + 6))
    return "".join(parts) + "</svg>"


def _powers(highest: float) -> list[float]:
    """0, 1, 10, 100 and so on up to one that is not below."""
    return [0.0, *(10.0**power for power in range(math.ceil(math.log10(max(highest, 10.0))) + 1))]


def _colour(number: int, of: int) -> str:
    """The classes of a bar; the first of several is paler, so that they differ in grey too."""
    return "bar c5 behind" if of > 1 and number == 0 else f"bar c{max(number - 1, 0) % 6}"


def _key(number: int, of: int, name: str, x: float, y: int) -> str:
    """A square in the colour of a series, and its name."""
    return (
        f'<rect class="{_colour(number, of)}" x="{x:.0f}" y={y - 9} width=10 height=10 />'
        f'<text class=tick x="{x + 14:.0f}" y={y}>{escape(name)}</text>'
    )


def _frame(title: str, x_label: str, y_label: str, width: int = WIDTH) -> str:
    middle_x, middle_y = (LEFT + width - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role=img aria-label="{escape(title, quote=True)}">'
        f"<text class=title x=0 y=16>{escape(title)}</text>"
        f'<text class=tick x="{middle_x}" y={HEIGHT - 6} text-anchor=middle>{escape(x_label)}</text>'
        f'<text class=tick transform="translate(12 {middle_y}) rotate(-90)" text-anchor=middle>{escape(y_label)}</text>'
    )


def _legend(index: int, name: str, x: int) -> str:
    """The mark and name of a curve, on the title's line where no curve runs."""
    return (
        f'<line class="line c{index % 6}" x1={x} x2={x + 18} y1=12 y2=12 />'
        f"<text class=tick x={x + 23} y=16>{escape(name)}</text>"
    )


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that cover low … high, at most about ``count`` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
