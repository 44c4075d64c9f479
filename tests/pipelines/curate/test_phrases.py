"""Phrases found by hash are those that a plain search over lists of words finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curate.phrases import PhraseIndex, hash_grams, hash_words, pack_arrays, quote, unpack_arrays

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "é"]), max_size=40)


def index_of(phrases: list[str]) -> PhraseIndex:
    words = [hash_words(phrase) for phrase in phrases]
    grams = [hash_grams(each, len(each)) for each in words]
    return PhraseIndex.of(np.concatenate(grams), [len(each) for each in words])


def same(one: str, other: str) -> bool:
    return hash_words(one).tolist() == hash_words(other).tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The cat's (big) HAT.", "the CAT s big hat"),
        ("blank ____ here", "blank here"),
        ("“Straße” — ﬁne…", "strasse fine"),
        ("don't", "don’t"),
        ("10 kg, 3.5", "10 kg 3 5"),
        ("猫が好き", "猫 が 好 き"),
        ("", " ,.;\n"),
    ],
)
def test_spelling_that_makes_no_difference(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(("one", "other"), [("ab", "a b"), ("a b", "b a"), ("a", "a a"), ("naïve", "naive")])
def test_spelling_that_makes_a_difference(one: str, other: str) -> None:
    assert not same(one, other)


def test_hashes_follow_their_definition() -> None:
    """FNV-1a with MurmurHash3's finaliser, and a polynomial over words, in Python's own whole numbers."""
    bits = (1 << 64) - 1

    def mix(value: int) -> int:
        value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCD & bits
        value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53 & bits
        return value ^ (value >> 33)

    def word(text: str) -> int:
        value = 0xCBF29CE484222325
        for byte in text.encode():
            value = (value ^ byte) * 0x100000001B3 & bits
        return mix(value)

    words = [word("raymill"), word("été"), word("b"), word("raymill")]
    assert hash_words("Raymill été, b raymill").tolist() == words
    base = 0x9E3779B97F4A7C15
    grams = [mix((words[i] * base**2 + words[i + 1] * base + words[i + 2] + 3) & bits) for i in range(2)]
    assert hash_grams(hash_words("Raymill été, b raymill"), 3).tolist() == grams


@settings(max_examples=200, deadline=None)
@given(text=WORDS, phrases=st.lists(WORDS.filter(lambda words: 0 < len(words) < 5), min_size=1, max_size=6))
def test_equal_to_a_plain_search(text: list[str], phrases: list[list[str]]) -> None:
    index = index_of([" ".join(each) for each in phrases])
    expected = {
        (start, len(phrase))
        for phrase in phrases
        for start in range(len(text))
        if text[start:][: len(phrase)] == phrase
    }
    matches = index.find(" ".join(text))
    assert set(zip(matches.positions.tolist(), matches.lengths.tolist(), strict=True)) == expected
    assert matches.words == len(text)
    for position, length, number in zip(matches.positions, matches.lengths, matches.phrases, strict=True):
        assert index.hashes[number] == hash_grams(hash_words(" ".join(text)), int(length))[position]


def test_more_matches_than_the_first_guess() -> None:
    assert len(index_of(["a"]).find("a " * 1000).positions) == 1000


def test_arrays_survive_packing() -> None:
    arrays = {"one": np.arange(5), "two": np.array(["x", "yy"])}
    again = unpack_arrays(pack_arrays(arrays))
    assert {name: value.tolist() for name, value in again.items()} == {"one": [0, 1, 2, 3, 4], "two": ["x", "yy"]}


def test_a_phrase_is_quoted_from_the_text_as_written() -> None:
    text = "Well: “The Cat’s hat”, he said."
    start, end = quote(text, 1, 4)
    assert text[start:end] == "The Cat’s hat"
    assert quote("...", 0, 3) == (0, 0)
    assert quote("one two", 5, 3) == (4, 7)
