from __future__ import annotations

import string
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.curate.contractions import expand_contractions
from pipelines.curate.normalise import NormaliseConfig, normalise, readable_text
from pipelines.curate.spelling import standardise_spelling

PLAIN: dict[str, Any] = {
    "expand_contractions": True,
    "spelling": "american",
    "remove_punctuation": True,
    "lowercase": True,
}


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("one\r\ntwo\rthree", "one\ntwo\nthree\n"),
        ("blank   \n\n\n\n\nlines\t\n", "blank\n\nlines\n"),
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("  indented first line\n", "  indented first line\n"),
        ("a\x00b\x1b[0mc\x7f", "ab[0mc\n"),
        ("schÃ¶n", "schön\n"),  # UTF-8 read as Latin-1
        ("itâ€™s", "it’s\n"),  # UTF-8 read as Windows-1252
        ("e\u0301", "é\n"),
        ("a\u00a0b\u3000c", "a b c\n"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen\n"),
        ("page one\fpage two", "page one\npage two\n"),
        ("می\u200cخواهم", "می\u200cخواهم\n"),  # Persian needs its zero-width non-joiner
        ("\n \n\t\n", ""),
        ("", ""),
        ("lone \ud800 surrogate", "lone  surrogate\n"),
    ],
)
def test_golden(given_text: str, expected: str) -> None:
    assert normalise(given_text) == expected


ODD = st.text(alphabet=st.sampled_from("aÃ¶â€™\u0301\u200b\u00ad \t\n\r\x85\x0c\u2028é\ud800.Â\xa0"), max_size=30)


@given(st.one_of(st.text(), ODD))
@example("\u00a0\u200b\u0301")
@example("\rÂ 0")
@example("Ã\u00ad¶")
def test_idempotent_clean_and_composed(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert "\n\n\n" not in once
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in once)
    assert not any(line != line.rstrip(" \t") for line in once.split("\n"))


@given(st.lists(st.text(alphabet="abc xyz{}#", min_size=1).filter(str.strip), min_size=1, max_size=10))
def test_lines_stay_lines(lines: list[str]) -> None:
    assert normalise("\n".join(lines)) == "\n".join(line.rstrip() for line in lines) + "\n"


@pytest.mark.parametrize(
    ("setting", "given_text", "left"),
    [
        ("unicode", "e\u0301\n", "e\u0301\n"),
        ("mojibake", "schÃ¶n\n", "schÃ¶n\n"),
        ("controls", "a\x00b\n", "a\x00b\n"),
        ("whitespace", " a \r\n\n\n\nb", " a \r\n\n\n\nb"),
    ],
)
def test_each_repair_can_be_switched_off(setting: str, given_text: str, left: str) -> None:
    assert normalise(given_text) != left
    assert normalise(given_text, NormaliseConfig.model_validate({setting: False})) == left


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000", "\n", "\u200b"])
@pytest.mark.parametrize("settings", [{}, PLAIN])
def test_long_runs_of_blanks_take_no_longer_than_words(blank: str, settings: dict[str, Any]) -> None:
    begin = time.process_time()
    assert normalise("a" + blank * 300_000 + "b", NormaliseConfig.model_validate(settings))
    assert time.process_time() - begin < 2  # quadratic time would be minutes


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("I'm sure it’s fine", "I am sure it is fine"),
        ("Can't, WON'T, Shan't", "Cannot, WILL NOT, Shall not"),
        ("wouldn't've", "would not have"),
        ("I'd've known", "I would have known"),
        ("Let's go, they'll come; you've seen 'tis so", "Let us go, they will come; you have seen it is so"),
        ("John's book, the dogs' bowls, rock'n'roll, o'clock", "John's book, the dogs' bowls, rock'n'roll, o'clock"),
        ("O'Neil ain't here", "O'Neil ain't here"),
        ("don'ts and isn'tx", "don'ts and isn'tx"),
        ("He'd said 'what's this'", "He would said 'what is this'"),
        ("'What's this' “It's” 'TIS 'Tis", "'What is this' “It is” IT IS It is"),
    ],
)
def test_contractions(given_text: str, expected: str) -> None:
    assert expand_contractions(given_text) == expected


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("The colours of the neighbourhood", "The colors of the neighborhood"),
        ("Organisation, REALISED, analysing", "Organization, REALIZED, analyzing"),
        ("a grey theatre in the centre", "a gray theater in the center"),
        ("travelled, modelling, marvellous", "traveled, modeling, marvelous"),
        ("defence and catalogue", "defense and catalog"),
    ],
)
def test_spelling_both_ways(british: str, american: str) -> None:
    assert standardise_spelling(british, "american") == american
    assert standardise_spelling(american, "british") == british
    assert standardise_spelling(american, "american") == american


def test_spelling_leaves_what_is_also_another_word() -> None:
    assert standardise_spelling("a tyre, a metre, programmes", "american") == "a tire, a meter, programs"
    for text in (
        "I tire of the meter",
        "check the program",
        "four hours, size, rise, wise, advise, exercise, analyses",
    ):
        assert standardise_spelling(text, "british") == text
        assert standardise_spelling(text, "american") == text


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Hello, World! (It's 3.14, or 1,000.)", "hello world it is 3.14 or 1,000\n"),
        ("John's well-known “quote” – e.g. this…", "johns well known quote e g this\n"),
        ("  - a bullet\n  - another\n", "a bullet\nanother\n"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया\n"),
        ("...", ""),
        ("İstanbul", "i̇stanbul\n"),
    ],
)
def test_for_classical_models(given_text: str, expected: str) -> None:
    assert normalise(given_text, NormaliseConfig.model_validate(PLAIN)) == expected


@given(
    st.text(alphabet=st.sampled_from(string.ascii_letters + "''’.,-0123 \t\n!Ãé\u0130\u00b6_$")),
    st.fixed_dictionaries({}, optional={**dict.fromkeys(PLAIN, st.booleans()), "spelling": st.none()}),
)
@example("'tis n't've I'd've", {"expand_contractions": True})
@example("a . , b -- 1 .5", {"remove_punctuation": True})
def test_every_setting_is_idempotent(text: str, settings: dict[str, Any]) -> None:
    config = NormaliseConfig.model_validate(settings)
    once = normalise(text, config)
    assert normalise(once, config) == once


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [
        ("words", "words", None),
        ("", "", None),
        (b"caf\xc3\xa9", "café", None),
        (None, "", "text.missing"),
        (float("nan"), "", "text.missing"),
        (b"\xff\xfe", "", "text.wrong_type"),
        (12, "", "text.wrong_type"),
        (True, "", "text.wrong_type"),
        (["a", "b"], "", "text.wrong_type"),
        ({"text": "a"}, "", "text.wrong_type"),
    ],
)
def test_texts_that_are_missing_or_something_else(value: object, text: str, reason: str | None) -> None:
    assert readable_text(value) == (text, reason)
