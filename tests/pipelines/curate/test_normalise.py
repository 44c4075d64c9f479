from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.curate.normalise import normalise


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
