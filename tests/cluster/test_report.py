"""Reports are whole, self-contained HTML whatever text and numbers go in."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from cluster.charts import _ticks, bar_chart, line_chart
from cluster.report import Page

HIDDEN = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]")
VOID = {"meta", "br", "line", "rect", "circle", "polyline"}


class Checker(HTMLParser):
    """Collects text and notes every address and open element."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Page) -> Checker:
    checker = Checker()
    checker.feed(page.render())
    return checker


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=50))
def test_any_text_is_shown_and_never_interpreted(text: str) -> None:
    page = Page("title", text)
    page.sample("label", text)
    page.table([{"column": text}])
    found = read(page)
    assert found.addresses == []
    assert found.text.count(HIDDEN.sub(lambda one: f"[U+{ord(one[0]):04X}]", text)) >= 3
    assert "<script" not in page.render().replace(text, "") or "<script" in text


def test_nothing_is_loaded_from_anywhere() -> None:
    page = Page("t")
    page.line_chart("loss", {"train": [(0, 1.0), (1, 0.5)]}, "step", "nats")
    page.links({"report": "a/report.html"})
    assert read(page).addresses == ["a/report.html"]
    assert not re.search(r"https?://|@import|url\(", page.render())


def test_line_chart_places_every_finite_point_inside_the_frame() -> None:
    points = [(float(x), y) for x, y in enumerate([3.0, 2.0, math.nan, 1.5, math.inf, 1.0])]
    svg = line_chart("loss <b>", {"train": points}, "step", "nats")
    (path,) = re.findall(r'points="([^"]*)"', svg)
    places = [tuple(map(float, pair.split(","))) for pair in path.split()]
    assert len(places) == 4
    assert all(0 <= x <= 640 and 0 <= y <= 280 for x, y in places)
    assert places[0][1] < places[-1][1]  # a falling loss goes down the page
    assert "<b>" not in svg


def test_charts_without_values_say_so() -> None:
    assert "nothing was recorded" in line_chart("loss", {"train": []}, "x", "y")
    assert "nothing was recorded" in bar_chart("drops", {})


def test_bars_are_as_long_as_their_values() -> None:
    svg = bar_chart("drops", {"a": 10.0, "b": 5.0, "c": 0.0})
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert widths[0] == 2 * widths[1]
    assert widths[2] == 1.0


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_ticks_cover_the_range_with_few_round_values(low: float, span: float) -> None:
    high = low + span
    ticks = _ticks(low, high)
    if high > low:
        assert ticks[0] <= low + 1e-6 * span
        assert ticks[-1] >= high - 1e-6 * span
        assert 2 <= len(ticks) <= 8


def test_svg_is_well_formed_where_attributes_are_quoted() -> None:
    svg = bar_chart("drops & more", {"a<b": 1.0})
    quoted = re.sub(r"(\s[\w-]+)=([^\"\s>/]+)", r'\1="\2"', svg)
    ElementTree.fromstring(quoted)


def test_a_long_page_links_its_sections_and_folds_what_is_asked_for() -> None:
    page = Page("t")
    for number in range(7):
        page.heading(f"section <{number}>")
    with page.folded("more & more", is_part=True):
        page.specimen("label", "note", [("left", [("a <b>", False), ("c", True)]), ("right", [("d", False)])])
    html = page.render()
    assert read(page).addresses == [f"#part-{number}" for number in range(1, 8)]
    assert "<h2 id=part-3>section &lt;2&gt;</h2>" in html
    assert "<details class=part><summary>more &amp; more</summary>" in html
    assert "<pre dir=auto>a &lt;b&gt;<mark>c</mark></pre>" in html
    assert "<nav" not in Page("short").render()


def test_shares_stand_to_the_right_like_numbers() -> None:
    page = Page("t")
    page.table([{"step": "a", "share": "12.5%", "left": 3}, {"step": "b", "share": "", "left": None}])
    html = page.render()
    assert "<td class=n>12.5%</td><td class=n>3</td>" in html
    assert "<td>a</td>" in html


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    page = Page("t")
    page.table([{"n": number} for number in range(1000)], most=30)
    assert page.render().count("<tr>") == 31
    assert "And 970 more." in page.render()
