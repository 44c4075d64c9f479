"""Histograms and paired bars: heights are the values, the key names every series, nothing leaves the frame."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from cluster.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Histogram, _powers, draw_histogram, paired_bars

COUNTS = st.lists(st.integers(0, 10**7), min_size=1, max_size=24)


def columns(svg: str, marker: str) -> list[tuple[float, float, float, float]]:
    """x, y, width and height of the columns of a series (not of its key)."""
    found = re.findall(r'<rect class="([^"]*)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    return [(float(x), float(y), float(w), float(h)) for name, x, y, w, h in found if name == marker]


def quoted(svg: str) -> str:
    return re.sub(r"(\s[\w-]+)=([^\"\s>/]+)", r'\1="\2"', svg)


def test_columns_are_as_tall_as_their_values() -> None:
    svg = draw_histogram("length", Histogram(["1", "2", "4"], {"before": [10, 5, 0], "after": [5, 0, 0]}, "x", "y"))
    before, after = columns(svg, "bar c5 behind"), columns(svg, "bar c0")
    assert [round(h / before[1][3], 2) for *_, h in before] == [2.0, 1.0]
    assert round(after[0][3], 1) == round(before[1][3], 1)
    assert after[0][2] < before[0][2]  # the later series stands in front of the earlier
    assert all(abs(y + h - (HEIGHT - BOTTOM)) < 0.2 for _, y, _, h in [*before, *after])
    assert "from 2, before: 5" in svg


@given(COUNTS, st.booleans(), st.sampled_from([WIDTH, 420]))
def test_nothing_leaves_the_frame(heights: list[int], logarithmic: bool, width: int) -> None:
    labels = [f"{n}k" for n in range(len(heights))]
    limits = [(len(heights) / 2, "at most <2>"), (0.0, "at least 1")]
    svg = draw_histogram("a & b", Histogram(labels, {"all": heights}, "x", "y", limits, width, logarithmic))
    if not any(heights):
        assert "nothing was recorded" in svg
        return
    drawn = columns(svg, "bar c0")
    assert len(drawn) == sum(height > 0 for height in heights)
    for x, y, wide, tall in drawn:
        assert LEFT <= x <= x + wide <= width - RIGHT + 0.2
        assert 0 < y <= y + tall <= HEIGHT - BOTTOM + 0.2
    assert "at most &lt;2&gt;" in svg
    ElementTree.fromstring(quoted(svg))


def test_a_logarithmic_axis_shows_one_beside_ten_thousand() -> None:
    histogram = Histogram(["0", "1"], {"all": [10_000, 1]}, "x", "y", logarithmic=True)
    tall = [height for *_, height in columns(draw_histogram("t", histogram), "bar c0")][:2]
    assert tall[1] > tall[0] / 20
    assert _powers(10_000) == [0, 1, 10, 100, 1000, 10_000]
    assert _powers(3) == [0, 1, 10]


def test_paired_bars_name_their_series_and_values() -> None:
    svg = paired_bars("By <source>", {"web": (200, 50), "docs": (0, 0)}, ("before", "after"), "documents")
    bars = [width for *_, width, _ in columns(re.sub(r"x=(\d+) y=(\d+)", r'x="\1" y="\2"', quoted(svg)), "bar c0")]
    assert "By &lt;source&gt; (documents)" in svg
    assert {">before<", ">after<", ">200<", ">50<", ">0<"} <= {*re.findall(r">[^<>]+<", svg)}
    assert "web, before: 200" in svg
    assert 0.0 in bars
    assert "nothing was recorded" in paired_bars("t", {}, ("a",))
    ElementTree.fromstring(quoted(svg))


def test_the_first_of_several_series_differs_in_grey() -> None:
    svg = draw_histogram("t", Histogram(["0"], {"before": [2], "after": [1]}, "x", "y"))
    assert svg.index("bar c5 behind") < svg.index('"bar c0"')
