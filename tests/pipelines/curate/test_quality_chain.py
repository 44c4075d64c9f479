"""Decisions, reasons and texts against datatrove's; scores that decide again without the text."""

from __future__ import annotations

import functools
import random
import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.curate import words as words_module
from pipelines.curate.config import CurateConfig
from pipelines.curate.quality_chain import QualityChain

README = Path(__file__).parents[3] / "pipelines" / "curate" / "README.md"


REASONS = {
    "empty": "empty",
    "dup_para_frac": "gopher_repetition.duplicate_paragraphs",
    "dup_para_char_frac": "gopher_repetition.duplicate_paragraph_characters",
    "dup_line_frac": "gopher_repetition.duplicate_lines",
    "dup_line_char_frac": "gopher_repetition.duplicate_line_characters",
    **{f"top_{n}_gram": f"gopher_repetition.top_{n}_gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"gopher_repetition.duplicate_{n}_grams" for n in range(5, 11)},
    "gopher_short_doc": "gopher_quality.min_words",
    "gopher_long_doc": "gopher_quality.max_words",
    "gopher_below_avg_threshold": "gopher_quality.min_mean_word_length",
    "gopher_above_avg_threshold": "gopher_quality.max_mean_word_length",
    "gopher_too_many_hashes": "gopher_quality.hash_signs",
    "gopher_too_many_ellipsis": "gopher_quality.ellipses",
    "gopher_too_many_bullets": "gopher_quality.bullet_lines",
    "gopher_too_many_end_ellipsis": "gopher_quality.ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher_quality.alphabetic_words",
    "gopher_enough_stop_words": "gopher_quality.stop_words",
    "lorem_ipsum": "c4.lorem_ipsum",
    "curly_bracket": "c4.curly_bracket",
    "too_few_sentences": "c4.min_sentences",
    "line_punct_ratio": "fineweb.line_punctuation",
    "short_line_ratio": "fineweb.short_lines",
    "char_dup_ratio": "fineweb.duplicate_line_characters",
    "list_ratio": "fineweb.line_ends",
}
"""The peer's reasons -> ours."""


@functools.cache
def peer_filters(terminal_punctuation: bool) -> list[Any]:
    """Needs datatrove."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    return [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=terminal_punctuation),
        FineWebQualityFilter(),
    ]


def peer_decides(text: str, terminal_punctuation: bool = False) -> tuple[str, str | None]:
    """The text that the peer keeps and None, or the text and its reason in our words."""
    from datatrove.data import Document

    document = Document(text=text, id="")
    for each in peer_filters(terminal_punctuation):
        result = each.filter(document)
        if result is not True:
            return text, REASONS[result[1]]
    return document.text, None


_LETTERS = "etaoinshrdlucmfwypvbgk"
_MARKS = (
    "...",
    "…",
    "#",
    "- ",
    "• ",
    "(",
    ")",
    ":)",
    "'s",
    "n't",
    ",",
    ";",
    "—",
    "12",
    "3.5",
    "u.s.",
    "é",
    "中文",
    "🙂",
)
_LINES = (
    "We use cookies on this page to make the page better for you.",
    "Please enable Javascript to see what is in this page.",
    "The study [1] said that [citation needed] it was so [edit].",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "if (x > 0) { return the.value; }",
    "See the terms of use.",
    "\u2028 odd\x0bline\x1fends \u00a0 here.  ",
    "x" * 1001,
    "",
    "   ",
)


def made_documents(count: int, seed: int) -> list[str]:
    """Documents in English-like words, each with its own leaning to repeat, list, mark, and break rules."""
    generator = random.Random(seed)
    vocabulary = ["".join(generator.choices(_LETTERS, k=generator.randint(2, 11))) for _ in range(800)]
    vocabulary += ["the", "be", "to", "of", "and", "that", "have", "with"] * 20
    return [_made(generator, vocabulary) for _ in range(count)]


def documents_for_rare_rules(seed: int) -> list[str]:
    """Documents that break a rule which few of the made ones reach."""
    generator = random.Random(seed)

    def word(length: int) -> str:
        return "".join(generator.choices(_LETTERS, k=length))

    def lines(count: int, *lengths: int) -> list[str]:
        return [" ".join(word(length) for length in lengths) for _ in range(count)]

    stops = "\nhere have the be of. that have to with. and this is it. so it is good. or so it was."
    return [
        " ".join(word(2) for _ in range(150)) + stops,
        "\n".join(f"{line}." for line in lines(40, 4, 5, 6, 3, 4)) + stops,
        "\n".join(lines(300, 9, 10, 11) + [f"{line}." for line in lines(45, 9, 10, 11)]) + stops,
        " ".join(word(6) + (" ..." if i % 8 == 0 else "") for i in range(100)) + stops,
    ]


def _made(generator: random.Random, vocabulary: list[str]) -> str:
    words = vocabulary if generator.random() < 0.8 else generator.choices(vocabulary, k=generator.randint(1, 60))
    repeats, marks, odd = (generator.choice((0, 0, 0.03, 0.1, 0.3)) for _ in range(3))
    ends = generator.choice((".", ".", ".", "?", "...", "", "!\u201d"))
    begins = generator.choice(("", "", "", "- ", "• ", "# "))
    longest = generator.choice((3, 8, 30))
    lines: list[str] = []
    for _ in range(generator.choice((1, 3, 8, 12, 16))):
        chance = generator.random()
        if lines and chance < repeats:
            lines.append(generator.choice(lines))
        elif chance < repeats + odd:
            lines.append(generator.choice(_LINES))
        else:
            line = [
                generator.choice(_MARKS) if generator.random() < marks else generator.choice(words)
                for _ in range(generator.randint(1, longest))
            ]
            if generator.random() < repeats:
                line *= 2
            lines.append(begins + " ".join(line) + (ends if generator.random() < 0.9 else ""))
    return generator.choice(("\n", "\n", "\n\n", "\r\n")).join(lines)


def as_datatrove(**changes: Any) -> CurateConfig:
    """The settings that the README gives for datatrove's decisions."""
    found = re.search(r"```yaml\ncurate:.*?```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    fields = yaml.safe_load(found.group().strip("`").removeprefix("yaml"))["curate"]
    for name, value in changes.items():
        fields[name] = {**fields.get(name, {}), **value} if isinstance(value, dict) else value
    return CurateConfig.model_validate(fields)


def real_documents() -> list[str]:
    """Docstrings and files of Python itself."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for name in ("argparse", "ast", "bdb", "calendar", "codecs", "csv", "datetime", "doctest", "random", "textwrap"):
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        texts += [each for each in re.findall(r'"""(.*?)"""', source, re.DOTALL) if len(each) > 200]
        texts.append(source[:3000])
    return texts


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return made_documents(1200, seed=7) + documents_for_rare_rules(8) + real_documents()


@pytest.mark.parametrize("terminal_punctuation", [False, True])
def test_decisions_reasons_and_texts_are_datatroves(documents: list[str], terminal_punctuation: bool) -> None:
    pytest.importorskip("datatrove")
    chain = QualityChain(as_datatrove(c4={"terminal_punctuation": terminal_punctuation}))
    reasons: Counter[str | None] = Counter()
    for text in documents[:: 4 if terminal_punctuation else 1]:
        if not text.strip():
            continue  # empty to us before any rule
        expected = peer_decides(text, terminal_punctuation)
        assert chain.decide(text) == expected, text
        reasons[expected[1]] += 1
    met = set(reasons) - {None}
    if not terminal_punctuation:
        assert set(REASONS.values()) - met <= {"empty", "gopher_quality.max_words"}
        assert reasons[None] > 50


@pytest.mark.anchor
def test_decisions_on_real_prose(anchors: Path) -> None:
    pytest.importorskip("datatrove")
    chain = QualityChain(as_datatrove())
    for path in sorted((anchors / "corpora" / "speeches").glob("*.txt"))[::9]:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert chain.decide(text) == peer_decides(text)


@pytest.mark.parametrize(
    "text",
    [
        "word",
        "the word of",
        "...",
        "?!" * 40,
        "- - - -\n" * 30,
        "中文字符沒有空格" * 40,
        "この文は日本語です。" * 30 + "\n終わり。",
        "🙂 " * 60,
        "🙂" * 400,
        "a" * 5000,
        "the of and to " * 5000,
        "\n".join(["the and of that"] * 4),
        "\x00\x01\x02 the \x7f of \x85 to.\n" * 20,
        "e\u0301 cafe\u0301 \u200b zero \ufeff width \u00ad the of. " * 9,
        "#" * 30 + " the of be to and that have with " * 9,
        "One. Two. Three. Four. Five the of. " * 3,
        "[1] [2] [3]\n" * 6,
        "End. [1]  \n" * 9,
        "the of and\x1c\x1d\x1e that with have be\u2029 to.\n" * 12,
    ],
)
def test_odd_documents(text: str) -> None:
    pytest.importorskip("datatrove")
    small = as_datatrove(gopher_quality={"min_words": 1, "min_alphabetic_words": None})
    assert QualityChain(as_datatrove()).decide(text) == peer_decides(text)
    QualityChain(small).decide(text)


LINES = st.lists(
    st.text(st.sampled_from("aAb .!?-•…#{[1]\"'’()é中🙂\t\x0b\x1f\u2028\u00a0"), max_size=30)
    | st.sampled_from(["the of and to", "Lorem ipsum is here.", "We use cookies here.", "no javascript here."]),
    max_size=12,
).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(LINES)
@example("One. the\x1f of\n\nTwo")
def test_texts_of_odd_lines(text: str) -> None:
    pytest.importorskip("datatrove")
    if text.strip():
        assert QualityChain(as_datatrove()).decide(text) == peer_decides(text)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gets_a_decision_both_ways(text: str) -> None:
    for splitter in ("reference", "fast"):
        for config in (CurateConfig(words=splitter), as_datatrove(words=splitter)):
            remaining, reason = QualityChain(config).decide(text)
            assert remaining == text or reason is None


@pytest.mark.parametrize("splitter", ["reference", "fast"])
def test_scores_decide_as_the_text_does(documents: list[str], splitter: str) -> None:
    made = QualityChain(as_datatrove(words=splitter))
    strict = QualityChain(
        as_datatrove(
            words=splitter,
            gopher_quality={"min_words": 100, "max_symbol_ratio": 0.02, "min_stop_words": 4},
            gopher_repetition={"max_top_ngram": {2: 0.02}, "max_duplicate_ngrams": {5: 0.01}},
            fineweb={"max_line_ends": 0.1},
            c4={"min_sentences": 8},
        )
    )
    for text in documents[::8]:
        if not text.strip():
            continue
        tagged = made.tag(text)
        assert all(isinstance(each, int | float) for scores in tagged.scores.values() for each in scores.values())
        for chain in (made, strict):
            assert chain.judge(tagged) == chain.decide(text)[1], text


def test_what_no_rule_asks_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("split")

    monkeypatch.setattr(words_module, "reference_words", fail)
    assert QualityChain(CurateConfig()).decide("the same\n" * 30)[1] == "gopher_repetition.duplicate_lines"


def test_off_is_off() -> None:
    chain = QualityChain(CurateConfig(repetition=None, quality=[]))
    assert chain.decide("x") == ("x", None)
    assert chain.decide(" \n") == (" \n", "empty")
    assert chain.tag("x").scores == {}


def test_what_c4_leaves_blank_is_empty() -> None:
    config = CurateConfig.model_validate(
        {"repetition": None, "quality": ["c4"], "c4": {"min_sentences": None, "min_words_in_line": 3}}
    )
    assert QualityChain(config).decide("too short\n") == ("too short\n", "empty")
