"""Line and bar charts as inline SVG: no script, no network, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 44

Points = Sequence[tuple[float, float]]


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
        shown = label if len(label) <= 42 else label[:41] + "…"
        parts.append(f"<text class=tick x={label_width - 8} y={y + 14} text-anchor=end>{escape(shown)}</text>")
        parts.append(f'<rect class="bar c0" x={label_width} y={y + 3} width="{width:.1f}" height={row - 7} rx=2 />')
        parts.append(
            f'<text class=tick x="{label_width + width + 6:.1f}" y={y + 14}>{_tick(value)} {escape(unit)}</text>'
        )
    return "".join(parts) + "</svg>"


def _frame(title: str, x_label: str, y_label: str) -> str:
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(title, quote=True)}">'
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
