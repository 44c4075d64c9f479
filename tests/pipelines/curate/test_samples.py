"""Samples: the same ones whatever the parts and workers, bounded, without personal data, safe to show."""

from __future__ import annotations

import random
import re
import sys
import types
from collections.abc import Callable
from pydoc_data import topics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.report import Page
from cluster.store import Store
from pipelines.curate import stage
from pipelines.curate.marks.mark import joined
from pipelines.curate.redact import redact_sample
from pipelines.curate.samples.choose import MOST_REASONS, SAMPLES, choose, merge
from pipelines.curate.samples.excerpt import CHARACTERS, Piece, excerpt
from pipelines.curate.samples.sample import Sample
from pipelines.curate.samples.show import samples_section

Samples = dict[str, list[Sample]]


def text_of(pieces: tuple[Piece, ...]) -> str:
    return "".join(text for text, _ in pieces)


def marked(pieces: tuple[Piece, ...]) -> list[str]:
    return [text for text, is_marked in pieces if is_marked]


@given(st.integers(0, 60), st.integers(1, 12), st.randoms(use_true_random=False))
def test_parts_and_order_do_not_change_the_choice(documents: int, parts: int, chance: random.Random) -> None:
    rows = [{"id": f"{n:04x}", "drop_reason": f"r{n % 3}"} for n in range(documents)]
    whole = merge([choose(rows, 0)])
    shuffled = chance.sample(rows, len(rows))
    cut = merge([choose(shuffled[part::parts], part) for part in range(parts)])
    assert {reason: [each.id for each in found] for reason, found in cut.items()} == {
        reason: [each.id for each in found] for reason, found in whole.items()
    }
    for reason, found in whole.items():
        assert len(found) == min(SAMPLES, sum(row["drop_reason"] == reason for row in rows))


def test_a_filter_with_a_reason_for_every_document_fills_no_page() -> None:
    rows = [{"id": f"{n:04x}", "drop_reason": f"filter.mine.r{n:04d}"} for n in range(1000)]
    parts = [choose(rows[part::7], part) for part in range(7)]
    chosen = merge(parts)
    assert [*chosen] == [row["drop_reason"] for row in rows[:MOST_REASONS]]
    assert all(len(each) <= MOST_REASONS for each in parts)
    page = Page("t")
    sample = Sample("1", "web", "a", "note", ())
    dropped = {row["drop_reason"]: 1 for row in rows}
    samples_section(page, dropped, {reason: [sample] for reason in chosen})
    assert "No samples are shown of 800 more reasons." in page.render()


def test_the_choice_is_not_that_of_names() -> None:
    rows = [{"id": f"{n:04x}", "drop_reason": "r"} for n in range(1000)]
    places = sorted(int(each.id, 16) for each in choose(rows, 0)["r"])
    assert places[0] > 9 or places[-1] > 500  # the smallest names would be 0 to 9
    assert [each.id for each in merge([choose(rows, 0)])["r"]] == [
        *("033a", "037b", "0012", "0002", "0014", "0398", "0111", "0084", "0387", "0139")
    ]


WORDS = st.sampled_from(
    [
        "word",
        "x" * 90,
        "ann@example.org",
        "8.8.8.8",
        "4111 1111 1111 1111",
        "\n",
        "٣ مرحبا",
        "end.",
        "<b>",
        "+49 30 901820",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=60).map(" ".join), st.data())
def test_an_excerpt_is_bounded_and_redacted(text: str, data: Any) -> None:
    place = st.integers(0, max(len(text) - 1, 0))
    places = joined(data.draw(st.lists(st.tuples(place, place), max_size=5)))
    pieces = excerpt(text, places, 120)
    shown = text_of(pieces)
    assert len(shown) <= 300
    assert all(piece for piece, _ in pieces)
    inside = shown.removeprefix("… ")
    assert re.sub(r" … \([\d,]+ characters\)$", "", inside) in redact_sample(text)
    if places:
        assert any(marked(pieces)) or all(text[a:b].isspace() for a, b in places) or len(text) > 120


def test_an_excerpt_shows_the_mark_wherever_it_is() -> None:
    text = "before " * 100_000 + "mail jane.doe@example.org or not. " + "after " * 100_000
    at = text.index("doe@")
    pieces = excerpt(text, ((at, at + 3),))
    assert marked(pieces) == ["<EMAIL>"]
    assert text_of(pieces).startswith("… before")
    assert text_of(pieces).endswith(f" … ({len(text):,} characters)")
    assert len(text_of(pieces)) < CHARACTERS + 60
    assert excerpt("short", ((0, 5),)) == (("short", True),)
    assert excerpt("short") == (("short", False),)


def test_an_excerpt_goes_where_most_is_marked() -> None:
    text = "x " * 2000 + "many marks stand here " + "y " * 2000
    at = text.index("many")
    places = ((2, 3), *((at + n, at + n + 4) for n in range(0, 20, 5)))
    assert marked(excerpt(text, places))[0].startswith("many mark")


def test_a_long_secret_is_not_shown_from_its_middle() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join("MIIEpAIBAAKCAQEA" * 4 for _ in range(60))
    text = f"Here:\n{key}\n-----END RSA PRIVATE KEY-----\nand so on"
    shown = text_of(excerpt(text, ((text.index("and so"), len(text)),), 200))
    assert "MIIE" not in shown


def test_hidden_characters_and_markup_are_shown_and_not_obeyed() -> None:
    page = Page("t")
    text = "\u202egnp.exe\u202c <script>alert(1)</script>\x00 مرحبا"
    sample = Sample("1", "web", "a\u202eb", "note", ((text, False), (text, True)))
    samples_section(page, {"language": 1}, {"language": [sample]})
    html = page.render()
    assert "<script" not in html
    assert "\u202e" not in html
    assert "\x00" not in html
    assert html.count("[U+202E]gnp.exe[U+202C] &lt;script&gt;") == 2
    assert "<pre dir=auto>" in html
    assert "<bdi>web: a[U+202E]b · 1</bdi>" in html


def rude(document: Any) -> str | None:
    return "rude" if "grumble" in document["text"] else None


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[Samples]:
    """What the stage hands to its report."""
    seen: list[Samples] = []
    real = stage.report

    def spy(*arguments: Any) -> str:
        seen.append(next(each for each in arguments if isinstance(each, dict)))
        return real(*arguments)

    monkeypatch.setattr(stage, "report", spy)
    module = types.ModuleType("own_sample_filters")
    module.rude = rude  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_sample_filters", module)
    return seen


def test_every_reason_is_explained_the_same_from_any_parts(
    make_corpus: Callable[..., Artifact], run_curate: Callable[..., Artifact], spied: list[Samples], store: Store
) -> None:
    chapter, other = topics.topics["import"], topics.topics["with"]
    repeated = "This very paragraph stands in several documents, and it is long enough to be told apart from others."
    kept = {name: topics.topics[name] for name in ("for", "lambda")}
    texts = {
        **kept,
        "original": chapter,
        "exact": chapter.replace(",", ""),
        "near": other,
        "equal": other.replace(",", ""),
        "nearly": other + "\nOne more sentence that nobody ever spoke.",
        "german": "Dies ist ein deutscher Text, der nicht bleiben soll, weil er nicht englisch ist. " * 3,
        "blank": " \n\t",
        "toxic": topics.topics["del"] + "\nThey call him a stupid man and an idiot, which is rude.",
        "grumble": topics.topics["global"] + "\nSo they grumble.",
        **{f"short{n}": f"It is far too short, this is what it says on page {n} of it." for n in range(16)},
        "first": f"{topics.topics['assert']}\n\n{repeated}",
        "second": f"{topics.topics['return']}\n\n{repeated}",
    }
    config: dict[str, Any] = {
        "audit": {"drop_above": 5},
        "filters": ["own_sample_filters:rude"],
        "gopher_quality": {"min_words": 20},
        "dedup": {"repeated_text": {"unit": "paragraph"}},
    }
    made_of = [run_curate(make_corpus(texts, in_part), **config) for in_part in (2, 100)]
    assert spied[0] == spied[1]
    pages = [store.read(made.key("report.html")).decode() for made in made_of]
    assert len({re.sub(r"corpus-[0-9a-f]{12}", "", page) for page in pages}) == 1
    samples = spied[0]
    by_path = {sample.path: (reason, sample) for reason, each in samples.items() for sample in each}
    assert len(samples["gopher_quality.min_words"]) == SAMPLES
    assert by_path["german"][0] == "language"
    assert "identified as de" in by_path["german"][1].note
    assert (by_path["blank"][0], by_path["blank"][1].pieces) == ("empty", ())
    reason, sample = by_path["toxic"]
    assert (reason, {*marked(sample.pieces)}) == ("audit.toxic", {"stupid", "idiot"})
    assert by_path["grumble"][1].note == "your filter rude said: rude"
    reason, sample = by_path["exact"]
    assert (reason, sample.keeper.split(" ")[0]) == ("duplicate.exact", "original")
    assert text_of(sample.beside).startswith(chapter.strip()[:50])
    equal = [by_path[path] for path in ("near", "equal") if by_path[path][0] == "duplicate.exact"]
    assert equal
    for _, sample in equal:  # a document is called what it is, though another than its equal stays
        assert sample.note.startswith("the same words in the same order as another document that goes; shares ")
    near = [by_path[path] for path in ("near", "equal") if by_path[path][0] == "duplicate.near"]
    reason, sample = (near or equal)[0]
    assert (reason.partition(".")[0], sample.keeper.split(" ")[0]) == ("duplicate", "nearly")
    assert re.search(r"similarity 0\.9\d|similarity 1\.00", sample.note)
    assert marked(sample.pieces)[0].startswith(text_of(sample.beside)[:40].strip()[:20])


def test_a_duplicate_of_an_earlier_corpus_stands_beside_it(
    make_corpus: Callable[..., Artifact], run_curate: Callable[..., Artifact], spied: list[Samples], store: Store
) -> None:
    chapter = topics.topics["import"]
    first = run_curate(make_corpus({"old": chapter, "x": topics.topics["class"]}, name="old"), validation_fraction=0)
    texts = {"new": chapter.replace(",", ""), "y": topics.topics["try"]}
    run_curate(make_corpus(texts, name="new"), dedup={"against": [first.id]}, validation_fraction=0)
    (sample,) = spied[-1]["duplicate.earlier"]
    assert (sample.path, sample.keeper.split(" ")[0]) == ("new", "old")
    assert text_of(sample.beside).startswith(chapter.strip()[:50])
