from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.report import Page
from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.audit.lexicon import WORDS, load_lexicon
from pipelines.curate.audit.report import audit_section, summarise
from pipelines.curate.audit.tally import AuditTally, count_near

OWN: dict[str, Any] = {
    "groups": {"team": {"reds": ["red", "red fox"], "blues": ["blue"]}},
    "attributes": {"fast": ["quick", "very quick"], "slow": ["slow"]},
    "toxic": ["drat", "oh bother"],
    "window_words": 2,
}


def config(**values: Any) -> AuditConfig:
    return AuditConfig.model_validate(OWN | values)


def count(documents: list[tuple[str, str]], chosen: AuditConfig) -> AuditTally:
    tally = AuditTally()
    for source, text in documents:
        tally.add(source, text, load_lexicon(chosen), chosen.window_words)
    return tally


DOCUMENTS = [
    ("web", "A quick Red fox. The blue one is slow!"),
    ("web", "Red, red; DRAT. Nothing else here"),
    ("books", "oh bother the blue and quick"),
    ("books", ""),
]


def test_counted_by_hand() -> None:
    audit = summarise(count(DOCUMENTS, config()), config())
    lists = {each["name"]: each for each in audit["lists"]}
    assert (audit["documents"], audit["words"], audit["words_by_source"]) == (4, 21, {"books": 6, "web": 15})
    assert audit["terms"] == {"red": 3, "blue": 2, "quick": 2, "drat": 1, "oh bother": 1, "red fox": 1, "slow": 1}
    assert (lists["reds"]["mentions"], lists["reds"]["documents"]) == (4, 2)
    assert lists["reds"]["share_of_axis"] == pytest.approx(4 / 6)
    assert lists["blues"]["by_source"]["books"] == {
        "mentions": 1,
        "share": 0.5,
        "per_million_words": pytest.approx(1e6 / 6),
        "documents": 1,
    }
    # `red` and `red fox` stand beside `quick`; `blue` has `slow` three words on, and `quick` two words off.
    assert [lists["reds"]["near"][name]["mentions"] for name in ("fast", "slow", "toxic")] == [2, 0, 2]
    assert [lists["blues"]["near"][name]["mentions"] for name in ("fast", "slow", "toxic")] == [1, 0, 0]
    assert lists["reds"]["near"]["fast"] == {"mentions": 2, "share": 0.5, "ratio": None}
    assert (lists["toxic"]["mentions"], lists["toxic"]["by_source"]["web"]["mentions"]) == (2, 1)
    assert json.loads(json.dumps(audit)) == audit


def test_a_ratio_compares_a_group_with_its_axis() -> None:
    texts = [("web", "quick red")] * 30 + [("web", "red")] * 30 + [("web", "quick blue")] * 15 + [("web", "blue")] * 45
    near = {each["name"]: each.get("near") for each in summarise(count(texts, config()), config())["lists"]}
    assert near["reds"]["fast"]["ratio"] == pytest.approx((30 / 60) / (45 / 120))
    assert near["blues"]["fast"]["ratio"] == pytest.approx((15 / 60) / (45 / 120))


@pytest.mark.parametrize(("close", "ratio"), [(4, None), (5, 1.0)])
def test_a_ratio_stands_on_at_least_five_expected_mentions(close: int, ratio: float | None) -> None:
    texts = [("web", "quick red")] * close + [("web", "red")] * 5
    assert summarise(count(texts, config()), config())["lists"][0]["near"]["fast"]["ratio"] == ratio


def test_parts_add_up_to_the_whole() -> None:
    whole, parts = count(DOCUMENTS, config()), AuditTally()
    for document in DOCUMENTS:
        parts.merge(count([document], config()))
    assert summarise(parts, config()) == summarise(whole, config())
    parts.remove(count(DOCUMENTS[1:3], config()))
    assert summarise(parts, config()) == summarise(count([DOCUMENTS[0], DOCUMENTS[3]], config()), config())


@given(st.lists(st.integers(0, 60), unique=True), st.lists(st.integers(0, 60), unique=True), st.integers(1, 12))
def test_closeness_equals_the_plain_definition(mentions: list[int], others: list[int], window: int) -> None:
    expected = sum(any(0 < abs(other - mention) <= window for other in others) for mention in mentions)
    one, other = (np.array(sorted(each), np.int64) for each in (mentions, others))
    assert count_near(one, other, window) == expected


def test_toxicity_is_terms_for_each_thousand_words() -> None:
    lexicon = load_lexicon(config())
    assert lexicon.toxicity("Drat " + "word " * 99) == 10
    assert lexicon.toxicity("Oh, bother it, drat") == 500
    assert lexicon.toxicity("...") == 0


def test_the_shipped_lists_say_where_they_come_from_and_are_sound() -> None:
    own = json.loads(WORDS.read_text(encoding="utf-8"))
    assert own["origin"].startswith("Written for Raymill")
    chosen = AuditConfig.model_validate({key: own[key] for key in ("groups", "attributes", "toxic")})
    lexicon = load_lexicon(AuditConfig.model_validate({}))
    assert lexicon.lists == load_lexicon(chosen).lists
    assert lexicon.origin == own["origin"]
    assert load_lexicon(config()).origin == "From the recipe: groups, attributes, toxic."
    for each in lexicon.lists:
        assert len(each.terms) == len(set(each.terms)) >= 2
    axes: dict[str, list[str]] = {}
    for each in lexicon.lists:
        axes.setdefault(each.axis or each.kind, []).extend(each.terms)
    for axis, terms in axes.items():
        if axis != "attribute":
            assert len(terms) == len(set(terms)), axis
    page = lexicon.mentions("She told the Black woman, an able-bodied African-American: shut up!")
    assert {lexicon.terms[each] for each in page.terms} == {
        "she",
        "woman",
        "black woman",
        "able-bodied",
        "african american",
        "shut up",
    }


def test_the_section_shows_method_lists_and_figures() -> None:
    page = Page("t")
    audit_section(page, summarise(count(DOCUMENTS, config()), config()), config())
    html = page.render()
    for words in ("within 2 words", "From the recipe", "Nothing was dropped", "reds", "50.0%", "oh bother", "books"):
        assert words in html
    empty = Page("t")
    audit_section(empty, summarise(AuditTally(), config(drop_above=3)), config(drop_above=3))
    assert "more than 3 toxic terms" in empty.render()


@pytest.mark.parametrize("values", [{"toxic": []}, {"toxic": ["four words are many"]}, {"groups": {"a": {"b": [""]}}}])
def test_lists_without_usable_terms_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no"):
        config(**values)
