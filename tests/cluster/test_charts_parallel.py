"""Parallel coordinates: every value lies at its height on its axis, and the best line is the one drawn thick."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.charts_parallel import BOTTOM, HEIGHT, TOP, Axis, parallel_coordinates


def lines(svg: str) -> list[tuple[str, list[tuple[float, float]], str]]:
    """Class, points and text of each line, in the order drawn."""
    found = re.findall(r'<polyline class="([^"]*)"[^>]*points="([^"]*)"><title>(.*?)</title>', svg)
    return [
        (look, [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())], text)
        for look, points, text in found
    ]


def share(y: float) -> float:
    return 1 - (y - TOP) / (HEIGHT - TOP - BOTTOM)


def test_values_lie_where_they_belong() -> None:
    axes = [
        Axis("rate", [1e-4, 1e-3, 1e-2], logarithmic=True),
        Axis("width", [10, 40, 20]),
        Axis("kind", ["adamw", "muon", "adamw"]),
        Axis("loss", [3.0, 1.0, None]),
    ]
    drawn = {
        text.partition(",")[0]: points for _, points, text in lines(parallel_coordinates("t", axes, list("abc"), 1))
    }
    heights = {name: [round(share(y), 2) for _, y in points] for name, points in drawn.items()}
    assert heights == {"a": [0, 0, 0, 1], "b": [0.5, 1, 1, 0], "c": [1, 0.33, 0]}
    assert len({x for points in drawn.values() for x, _ in points}) == 4


def test_the_best_line_is_drawn_last_and_thick() -> None:
    svg = parallel_coordinates("t", [Axis("x", [1, 2, 3]), Axis("loss", [1.5, 0.5, 2.5])], ["one", "two", "three"], 1)
    look, _, text = lines(svg)[-1]
    assert look == "line c1"
    assert text == "two, x 2, loss 0.5"
    assert [each for each, *_ in lines(svg)].count("line c1") == 1


def test_names_are_escaped_and_an_empty_chart_says_so() -> None:
    svg = parallel_coordinates("a & b", [Axis("<x>", ["<script>", True, None])], ["1", "2", "3"])
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg
    assert "nothing was recorded" in parallel_coordinates("t", [Axis("x", [])], [])


VALUES: Any = st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-5, 5), st.text(max_size=3), st.booleans())


@given(st.lists(st.tuples(VALUES, VALUES, st.floats(1e-6, 1e6)), min_size=1, max_size=8))
def test_nothing_leaves_the_frame(rows: list[tuple[Any, Any, float]]) -> None:
    columns = list(zip(*rows, strict=True))
    axes = [Axis(name, list(column), logarithmic=name == "c") for name, column in zip("abc", columns, strict=True)]
    svg = parallel_coordinates("t", axes, [str(n) for n in range(len(rows))])
    for _, points, _ in lines(svg):
        assert all(math.isfinite(y) and -1e-6 <= share(y) <= 1 + 1e-6 for _, y in points)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_it_is_well_formed(count: int) -> None:
    svg = parallel_coordinates("t", [Axis(f"k{n}", [n, 2 * n]) for n in range(count)], ["a", "b"], 0)
    ElementTree.fromstring(re.sub(r"(\s[\w-]+)=([^\"\s>/]+)", r'\1="\2"', svg))
