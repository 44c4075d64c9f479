"""Each rule with a text that breaks it by little and one that just holds it, and slow oracles for the n-grams."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from pipelines.curate.c4 import apply_c4
from pipelines.curate.config import C4Config, CurateConfig, GopherQualityConfig, GopherRepetitionConfig
from pipelines.curate.language import check_languages, identify_language
from pipelines.curate.quality import judge_quality
from pipelines.curate.repetition import NGrams, judge_repetition
from pipelines.curate.words import Words

QUALITY = GopherQualityConfig.model_validate({})
REPETITION = GopherRepetitionConfig.model_validate({})
C4 = C4Config.model_validate({})


def quality(text: str, **changes: object) -> str | None:
    return judge_quality(Words(text), GopherQualityConfig.model_validate(changes))


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
        (distinct(98) + " the the", None),
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
    assert judge_repetition(Words(text), REPETITION) == reason


@pytest.mark.anchor
def test_real_prose_passes_every_rule(anchors: Path) -> None:
    text = (anchors / "corpora" / "speeches" / "1861-Lincoln.txt").read_text(encoding="utf-8")
    assert identify_language(text)[0] == "en"
    assert judge_repetition(Words(text), REPETITION) is None
    assert judge_quality(Words(text), QUALITY) is None
    assert apply_c4(text, C4)[1] is None


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=60)


@given(WORDS, st.integers(1, 6))
def test_top_ngram_against_counting_texts(words: list[str], n: int) -> None:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    expected = 0
    if grams:
        gram, count = Counter(grams).most_common(1)[0]  # of equal counts the first
        expected = len(gram) * count if count > 1 else 0
    assert NGrams(words).top_characters(n) == expected


@given(WORDS, st.integers(1, 6))
def test_repeated_ngrams_against_comparing_texts(words: list[str], n: int) -> None:
    seen: set[tuple[str, ...]] = set()
    expected = position = 0
    while position + n <= len(words):
        gram = tuple(words[position : position + n])
        if gram in seen:
            expected += sum(map(len, gram))
            position += n
        else:
            seen.add(gram)
            position += 1
    assert NGrams(words).repeated_characters(n) == expected


def c4(text: str, **changes: object) -> tuple[str, str | None]:
    return apply_c4(text, C4Config.model_validate(changes))


def test_c4_counts_sentences() -> None:
    assert c4("One. Two. Three. Four.")[1] == "c4.min_sentences"
    assert c4("One. Two. Three. Four. Five.")[1] is None
    assert c4("a line\n\nanother\nthird\nfourth\nfifth\n")[1] is None
    assert c4("Version 1.2.3.4.5 is out")[1] == "c4.min_sentences"


def test_c4_drops_documents() -> None:
    five = "One. Two. Three. Four. Five.\n"
    assert c4(five + "Lorem Ipsum dolor")[1] == "c4.lorem_ipsum"
    assert c4(five + "{x}")[1] is None
    assert c4(five + "{x}", curly_bracket=True)[1] == "c4.curly_bracket"


def test_c4_keeps_the_structure_of_what_stays() -> None:
    text = "# Title\n\nOne. Two. Three.\n\n    code()\n" + "x" * 1001 + "\nSee our Privacy Policy here.\nEnd.\n"
    assert c4(text) == ("# Title\n\nOne. Two. Three.\n\n    code()\nEnd.\n", None)


def test_c4_as_published() -> None:
    text = "Title\n\nThis line is whole.\nThis one is not\nToo short.\nWe need Javascript to run this.\nIs it so?\n"
    published = {"terminal_punctuation": True, "min_words_in_line": 3, "javascript": True, "min_sentences": 2}
    assert c4(text, **published) == ("This line is whole.\nIs it so?", None)


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
    for section, name in (("gopher_quality", "Gopher"), ("gopher_repetition", "Gopher"), ("c4", "C4")):
        for field, info in type(getattr(CurateConfig(), section)).model_fields.items():
            assert info.description, field
            assert name in info.description or field == "count_heading_marks", field
