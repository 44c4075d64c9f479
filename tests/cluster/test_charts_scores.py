"""Charts of scores: what is drawn is where it belongs, text is never markup, and odd values break nothing."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from cluster.charts_scores import difference_chart, interval_bars, radar_chart


def parsed(svg: str) -> ElementTree.Element:
    """The picture as XML; HTML lets attributes go without quotes."""
    return ElementTree.fromstring(re.sub(r'=([^\s">/]+)(?=[\s/>])', r'="\1"', svg))


def test_bars_are_as_long_as_their_scores_and_whiskers_end_where_intervals_do() -> None:
    svg = interval_bars("t", {"one": {"": [0.5, 0.4, 0.6, 0.25]}, "two": {"": [0.25, None, None, None]}})
    widths = [float(rect.get("width", "")) for rect in parsed(svg).iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    (path,) = parsed(svg).iter("path")
    left, right = (float(x) for x in re.findall(r"M([\d.]+) [\d.]+v6", path.get("d", "")))
    scale = widths[0] / 0.5
    assert right - left == pytest.approx(0.2 * scale, abs=0.3)
    assert len([line for line in parsed(svg).iter("line") if line.get("stroke-dasharray")]) == 1


def test_differences_lie_on_their_side_of_zero_and_only_shown_ones_are_in_colour() -> None:
    svg = difference_chart(
        "t", {"up": (2.0, 1.0, 3.0), "down": (-2.0, -3.0, -1.0), "open": (1.0, -1.0, 3.0)}, {"up", "down"}
    )
    dots = [(float(dot.get("cx", "")), dot.get("class")) for dot in parsed(svg).iter("circle")]
    zero = next(float(text.get("x", "")) for text in parsed(svg).iter("text") if text.text == "0")
    assert dots[0][0] > zero > dots[1][0]
    assert [kind for _, kind in dots] == ["dot c2", "dot c1", "dot c5"]


def test_a_radar_has_a_corner_for_each_axis_and_needs_three() -> None:
    values = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 1.0}
    areas = [each for each in parsed(radar_chart("t", {"A": values, "B": values})).iter("polygon") if each.get("style")]
    assert [len(each.get("points", "").split()) for each in areas] == [4, 4]
    assert "fewer than three" in radar_chart("t", {"A": {"a": 0.1, "b": 0.2}})
    assert "fewer than three" in radar_chart("t", {})


def test_text_is_text_and_odd_values_break_nothing() -> None:
    evil = "<script>alert(1)</script>"
    for svg in (
        interval_bars(evil, {evil: {evil: [0.0, 0.0, 0.0, 0.0], "x": [0.0, None, None, None]}}),
        difference_chart(evil, {evil: (0.0, -math.inf, math.inf), "y": (0.0, 0.0, 0.0)}, set()),
        radar_chart(evil, {evil: {evil: 0.0, "b": 0.0, "c": 0.0}}),
    ):
        assert "<script" not in svg
        assert "nan" not in svg and "inf" not in svg
    assert "nothing was recorded" in interval_bars("t", {})
    assert "nothing was recorded" in difference_chart("t", {}, set())
