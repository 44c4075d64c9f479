"""Each rule with a text that breaks it by little and one that just holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UserError
from pipelines.curate.c4 import c4, clean
from pipelines.curate.config import C4Config, CurateConfig, FineWebConfig, GopherQualityConfig, GopherRepetitionConfig
from pipelines.curate.fineweb import fineweb
from pipelines.curate.language import check_languages, identify_language
from pipelines.curate.quality import gopher_quality
from pipelines.curate.repetition import gopher_repetition
from pipelines.curate.rules import Limit, RuleSet, at_least, at_most, judge
from pipelines.curate.words import Words


def quality(text: str, **changes: object) -> str | None:
    return gopher_quality(GopherQualityConfig.model_validate(changes)).decide(Words(text))


def repetition(text: str, **changes: object) -> str | None:
    return gopher_repetition(GopherRepetitionConfig.model_validate(changes)).decide(Words(text))


def distinct(count: int, length: int = 5) -> str:
    """That many different words, of letters only."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = []
    for index in range(count):
        digits = [letters[index // 26**place % 26] for place in range(length)]
        words.append("".join(digits))
    return " ".join(words)


STOPS = " the of"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (distinct(48) + STOPS, None),
        (distinct(47) + STOPS, "gopher_quality.min_words"),
        (distinct(99_998) + STOPS, None),
        (distinct(99_999) + STOPS, "gopher_quality.max_words"),
        (distinct(50, 3) + STOPS, "gopher_quality.min_mean_word_length"),
        (distinct(51, 3) + " andthe" + STOPS, None),
        (distinct(96, 11) + STOPS, "gopher_quality.max_mean_word_length"),
        (distinct(98, 10) + STOPS, None),
        (distinct(98) + STOPS + " #" * 10, None),
        (distinct(98) + STOPS + " #" * 11, "gopher_quality.hash_signs"),
        ("\n".join(["## Title"] * 20) + " " + distinct(80) + STOPS, None),
        (distinct(98) + STOPS + " ..." * 6 + " …" * 4 + " |", None),
        (distinct(98) + STOPS + " ..." * 6 + " …" * 5 + " |", "gopher_quality.ellipses"),
        ("- one two three four five\n" * 18 + "the of one\n" * 2, None),
        ("- one two three four five\n" * 19 + "the of one\n" * 1, "gopher_quality.bullet_lines"),
        ("one two three four five six seven eight...\n" * 6 + "the of and\n" * 14, None),
        (
            "one two three four five six seven eight nine ten eleven...\n" * 7 + "the of\n" * 13,
            "gopher_quality.ellipsis_lines",
        ),
        (distinct(78) + STOPS + " 12345" * 20, None),
        (distinct(77) + STOPS + " 12345" * 21, "gopher_quality.alphabetic_words"),
        (distinct(99) + " the", "gopher_quality.stop_words"),
        (distinct(98) + " the the", "gopher_quality.stop_words"),
    ],
)
def test_gopher_quality_at_its_thresholds(text: str, reason: str | None) -> None:
    assert quality(text) == reason


def test_a_rule_set_to_null_is_off() -> None:
    assert quality("few words", min_words=None, min_stop_words=None) is None
    assert quality("\n".join(["## Title"] * 20) + distinct(80), count_heading_marks=True) == "gopher_quality.hash_signs"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (distinct(300), None),
        ("\n\n".join([distinct(9)] * 4 + [distinct(400), "x", "y", "z"]), "gopher_repetition.duplicate_paragraphs"),
        (
            "\n\n".join([distinct(90)] * 2 + [distinct(99)] + list("abcde")),
            "gopher_repetition.duplicate_paragraph_characters",
        ),
        ("\n".join(["abc"] * 5 + [distinct(400), *"xyzwvu"]), "gopher_repetition.duplicate_lines"),
        ("\n".join([distinct(90)] * 2 + [distinct(99)] + list("abcde")), "gopher_repetition.duplicate_line_characters"),
        ("big dog " * 25 + distinct(100), "gopher_repetition.top_2_gram"),
        (
            " ".join(f"{a} {b}" for a, b in zip(distinct(60).split(), ["one two three"] * 60, strict=True)),
            "gopher_repetition.top_2_gram",
        ),
        (" ".join([distinct(60), "x", distinct(60), "y", distinct(200)]), "gopher_repetition.duplicate_5_grams"),
    ],
)
def test_gopher_repetition(text: str, reason: str | None) -> None:
    assert repetition(text) == reason


def test_what_occurs_once_is_repeated_only_to_datatrove() -> None:
    text = f"{'a' * 40} {'b' * 40} {distinct(9)}"
    assert repetition(text) is None
    assert repetition(text, count_single_ngrams=True) == "gopher_repetition.top_2_gram"


def test_symbols_are_words_only_to_datatrove() -> None:
    table = distinct(60) + " | -- | -- |" * 12
    assert repetition(table) is None
    assert repetition(table, symbols_are_words=True) == "gopher_repetition.top_3_gram"
    assert quality(distinct(90) + STOPS + " ( )" * 20) is None
    assert quality(distinct(90) + STOPS + " ( )" * 20, symbols_are_words=True) == "gopher_quality.alphabetic_words"


def web(text: str, **changes: object) -> str | None:
    return fineweb(FineWebConfig.model_validate(changes)).decide(Words(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 60 + ".\n" + "\n".join(letter * 60 for letter in "abcdef"), None),  # 1 of 7 lines
        ("x" * 60 + ".\n" + "\n".join(letter * 60 for letter in "abcdefgh"), "fineweb.line_punctuation"),
        ("\n".join([f"{distinct(9)} {n}." for n in "ab"] + [f"{'w' * 29}{n}." for n in "abcde"]), None),
        (
            "\n".join([f"{distinct(9)} {n}." for n in "ab"] + [f"{'w' * 28}{n}." for n in "abcde"]),
            "fineweb.short_lines",
        ),
        ("\n".join([distinct(99) + "."] + ["ab " * 11 + "."] * 2), "fineweb.duplicate_line_characters"),
        ("\n".join([distinct(99) + "."] + ["a."] * 2), None),
        ("one.\n" * 3, "fineweb.short_lines"),
        (" \n\n", "fineweb.empty"),
    ],
)
def test_fineweb_at_its_thresholds(text: str, reason: str | None) -> None:
    assert web(text, max_line_ends=None) == reason


def test_fineweb_counts_line_ends_for_each_word() -> None:
    text = "\n".join(f"{distinct(3)} word{n}" for n in "abcdefgh")  # 7 line ends, 32 words
    lenient = {"min_punctuated_lines": None, "max_short_lines": None}
    assert web(text, **lenient) is None
    assert web(text, **lenient, max_line_ends=0.21) == "fineweb.line_ends"
    assert web(text, **lenient, max_line_ends=7 / 32) is None


@pytest.mark.anchor
def test_real_prose_passes_every_rule(anchors: Path) -> None:
    text = (anchors / "corpora" / "speeches" / "1861-Lincoln.txt").read_text(encoding="utf-8")
    assert identify_language(text)[0] == "en"
    assert repetition(text) is None
    assert quality(text) is None
    assert c4_of(text)[1] is None


def c4_of(text: str, **changes: object) -> tuple[str, str | None]:
    rules = C4Config.model_validate(changes)
    cleaned = clean(text, rules)
    return cleaned.text, c4(rules).decide(cleaned)


def test_c4_counts_sentences() -> None:
    assert c4_of("One. Two. Three. Four.")[1] == "c4.min_sentences"
    assert c4_of("One. Two. Three. Four. Five.")[1] is None
    assert c4_of("a line\n\nanother\nthird\nfourth\nfifth\n")[1] is None
    assert c4_of("Version 1.2.3.4.5 is out")[1] == "c4.min_sentences"


def test_c4_drops_documents() -> None:
    five = "One. Two. Three. Four. Five.\n"
    assert c4_of(five + "Lorem Ipsum dolor")[1] == "c4.lorem_ipsum"
    assert c4_of(five + "{x}")[1] is None
    assert c4_of(five + "{x}", curly_bracket=True)[1] == "c4.curly_bracket"


def test_c4_keeps_the_structure_of_what_stays() -> None:
    text = "# Title\n\nOne. Two. Three.\n\n    code()\n" + "x" * 1001 + "\nSee our Privacy Policy here.\nEnd.\n"
    assert c4_of(text) == ("# Title\n\nOne. Two. Three.\n\n    code()\nEnd.\n", None)


def test_c4_as_published() -> None:
    text = "Title\n\nThis line is whole.\nThis one is not\nToo short.\nWe need Javascript to run this.\nIs it so?\n"
    published = {"terminal_punctuation": True, "min_words_in_line": 3, "javascript": True, "min_sentences": 2}
    assert c4_of(text, **published) == ("This line is whole.\nIs it so?", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Title\nOne two three. Four five six.\nLorem ipsum is here.\n{ a b c }", "c4.lorem_ipsum"),
        ("One { two three.\nLorem ipsum is here.", "c4.curly_bracket"),
        ("Lorem ipsum\nOne two three four.", "c4.min_sentences"),  # a removed line's phrase is not seen
        ("This { in javascript here.\nOne two three four.", "c4.min_sentences"),
    ],
)
def test_c4_reasons_follow_the_lines(text: str, reason: str) -> None:
    assert c4_of(text, curly_bracket=True, min_words_in_line=3, javascript=True)[1] == reason


def test_c4_takes_citations_out() -> None:
    text = "So it is.[1] And [2] here [edit] too. [x]\n[citation needed]\n    indented [0].\n"
    rules = {"citations": True, "min_sentences": None}
    assert c4_of(text, **rules)[0] == "So it is. And  here  too. [x]\n\n    indented .\n"
    assert c4_of(text, **rules, keep_layout=False)[0] == "So it is. And  here  too. [x]\n\nindented ."


def test_a_limit_itself_holds() -> None:
    limits = [*at_least("few", "n", 2), *at_most("many", "n", 5), *at_most("off", "n", None)]
    assert [judge({"n": n}, limits) for n in (1, 2, 5, 6)] == ["few", None, None, "many"]
    with pytest.raises(KeyError):
        judge({"other": 1.0}, limits)
    assert all(isinstance(each, Limit) for each in limits)


def test_deciding_stops_measuring_and_takes_shortcuts() -> None:
    asked: list[str] = []

    def measure(name: str, value: float) -> float:
        asked.append(name)
        return value

    rules: RuleSet[str] = RuleSet(
        {"a": lambda _: measure("a", 1), "b": lambda _: measure("b", 9), "c": lambda _: measure("c", 9)},
        (*at_most("A", "a", 5), *at_most("B", "b", 5), *at_most("C", "c", 5)),
        {"b": lambda _: measure("short b", 6)},
    )
    assert rules.decide("") == "B"
    assert asked == ["a", "short b"]
    assert rules.scores("") == {"a": 1, "b": 9, "c": 9}
    assert rules.judge(rules.scores("")) == "B"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The quick brown fox jumps over the lazy dog and runs into the forest.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund und läuft in den Wald.", "de"),
        ("Le renard brun saute par-dessus le chien paresseux et court dans la forêt.", "fr"),
        ("Быстрая коричневая лиса перепрыгивает через ленивую собаку.", "ru"),
    ],
)
def test_language(text: str, code: str) -> None:
    found, confidence = identify_language(text)
    assert found == code
    assert 0.5 < confidence <= 1.0


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(UserError, match="'english' is no language"):
        check_languages(["english"])


def test_every_threshold_names_its_source() -> None:
    for section, name in (
        ("gopher_quality", "Gopher"),
        ("gopher_repetition", "Gopher"),
        ("c4", "C4"),
        ("fineweb", "FineWeb"),
    ):
        for field, info in type(getattr(CurateConfig(), section)).model_fields.items():
            assert info.description, field
            assert name in info.description or field == "count_heading_marks", field
