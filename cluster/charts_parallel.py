"""Parallel coordinates as inline SVG: one axis a quantity, one line a trial, from its first value to its last."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

HEIGHT, TOP, BOTTOM, SIDE, STEP = 320, 58, 24, 90, 130
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """One quantity.

    Attributes:
        values: of every line in order; None where a line does not reach it.
        logarithmic: numbers, all above 0, whose logarithms are spread evenly.
    """

    name: str
    values: Sequence[Any]
    logarithmic: bool = False


def parallel_coordinates(title: str, axes: Sequence[Axis], names: Sequence[str], best: int | None = None) -> str:
    """Axes side by side with a line through each trial's values.

    Numbers are placed by their size, anything else by its place in the order of first appearance. A line ends where it
    has no value. The best one is drawn last, thick, in a colour of its own; lines show their values when pointed at.

    Args:
        names: of the lines.
        best: the place of the best line.
    """
    if not names or not axes:
        return f"<p class=note>{escape(title)}: nothing was recorded.</p>"
    width = 2 * SIDE + STEP * max(len(axes) - 1, 1)
    parts = [
        f'<svg viewBox="0 0 {width} {HEIGHT}" role=img aria-label="{escape(title, quote=True)}" '
        f'style="max-width: {width}px; min-width: {min(width, 900)}px">',
        f"<text class=title x=0 y=16>{escape(title)}</text>",
    ]
    scales = [_Scale(axis) for axis in axes]
    for place, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        x = SIDE + STEP * place
        parts.append(f"<line class=grid x1={x} x2={x} y1={TOP} y2={HEIGHT - BOTTOM} />")
        # Neighbouring names stand on two lines: they are longer than the axes are apart.
        y = TOP - 14 if place % 2 == 0 else TOP - 28
        parts.append(f"<text x={x} y={y} text-anchor=middle>{escape(axis.name)}</text>")
        for value, height in scale.ticks():
            parts.append(f'<text class=tick x={x - 6} y="{_y(height) + 4:.1f}" text-anchor=end>{escape(value)}</text>')
    order = [number for number in range(len(names)) if number != best] + ([best] if best is not None else [])
    for number in order:
        points, said = [], [names[number]]
        for place, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
            value = axis.values[number]
            if value is None:
                break
            points.append(f"{SIDE + STEP * place},{_y(scale.height(value)):.1f}")
            said.append(f"{axis.name} {_text(value)}")
        look = 'class="line c1" style="stroke-width: 3"' if number == best else 'class="line c0" stroke-opacity=".5"'
        parts.append(
            f'<polyline {look} points="{" ".join(points)}"><title>{escape(", ".join(said))}</title></polyline>'
        )
    return "".join(parts) + "</svg>"


class _Scale:
    """Where the values of an axis lie, from 0 (below) to 1."""

    def __init__(self, axis: Axis) -> None:
        present = [value for value in axis.values if value is not None]
        self._numeric = bool(present) and all(_is_number(value) for value in present)
        self._logarithmic = axis.logarithmic and self._numeric and min(present) > 0
        if self._numeric:
            placed = [self._place(value) for value in present]
            self._low, self._high = min(placed), max(placed)
        else:
            self._kinds = list(dict.fromkeys(map(_text, present)))

    def _place(self, value: float) -> float:
        return math.log(value) if self._logarithmic else float(value)

    def height(self, value: Any) -> float:
        """The height of a value; 0.5 where an axis has but one."""
        if not self._numeric:
            return self._kinds.index(_text(value)) / (len(self._kinds) - 1) if len(self._kinds) > 1 else 0.5
        return (self._place(value) - self._low) / (self._high - self._low) if self._high > self._low else 0.5

    def ticks(self) -> list[tuple[str, float]]:
        """Labels and their heights: every kind, or numbers spread evenly from the lowest to the highest."""
        if not self._numeric:
            return [(kind, self.height(kind)) for kind in self._kinds]
        if self._high == self._low:
            return [(_text(math.exp(self._low) if self._logarithmic else self._low), 0.5)]
        shares = [number / (TICKS - 1) for number in range(TICKS)]
        placed = [self._low + share * (self._high - self._low) for share in shares]
        return [
            (_text(math.exp(value) if self._logarithmic else value), share)
            for value, share in zip(placed, shares, strict=True)
        ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if _is_number(value) else json.dumps(value)


def _y(height: float) -> float:
    return TOP + (1 - height) * (HEIGHT - TOP - BOTTOM)
