"""Words against datatrove's, and the memory of chunks; what compiled code counts against slow oracles."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.curate import chunks, counts, words
from pipelines.curate.characters import LINE_ENDS, SENTENCE_ENDS, SYMBOLS, TABLE_SIZE, character_table, code_points
from pipelines.curate.reference_words import ReferenceWords
from pipelines.curate.words import Words


@pytest.fixture(scope="module")
def peer() -> Any:
    """datatrove's English tokenizer."""
    pytest.importorskip("datatrove")
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    tokenizer = load_word_tokenizer("en")
    for _ in range(2):  # it knows this word only the first time in a process
        tokenizer.word_tokenize("IS_ALPHA")
    return tokenizer


def peer_sentences(peer: Any, text: str) -> int:
    return sum(max(1, len(peer.span_tokenize(line))) for line in text.split("\n"))


ODD = """
the dog it's It's 's can't cannot dont gonna a.m. e.g. U.S. Ph.D. Dr. etc. 10km 3.5 $5 5% #1 C++ o.O :) :-( (: =D <3 ._.
well-known a-b foo/bar and/or x=y a,b 1,000 os.path.join lower.Upper http://a.b/c?d=e me@b.co ... -- — … " ' ( ) [ ] { }
’s ‘ ’ “ ” word, word. (word) (word, "word" word." word), wo(rd a. b. é naïve 中文 🙂 🙂🙂 \u200b IS_ALPHA xIS_ALPHA
"""
PIECES = st.sampled_from(ODD.split())
BLANKS = st.sampled_from(["", "", " ", " ", "  ", "\n", "\t", " \n", "\u00a0", "\x1f", "\u2028"])
TEXTS = st.lists(st.tuples(PIECES, BLANKS), max_size=25).map(lambda pairs: "".join(map("".join, pairs)))


@settings(max_examples=300, deadline=None)
@given(TEXTS | st.text(max_size=60))
@example("")
@example(" ")
@example("'8] =[o>")  # an exception matches across the blank and hides the one in the first chunk
@example('3>:( =)’p and o: (=P"[^ twice')
@example("IS_ALPHA")
def test_words_are_the_peers(peer: Any, text: str) -> None:
    assert Words(text).words == peer.word_tokenize(text)


@settings(max_examples=150, deadline=None)
@given(TEXTS.map(str.strip).filter(bool))
@example("One.  \u00a0Two")
@example("One. two.  ”")
@example("One. \nTwo.\t\n\n three? ”four")
def test_sentences_are_the_peers(peer: Any, text: str) -> None:
    if "IS_ALPHA" not in text:
        assert Words(text).sentences == peer_sentences(peer, text)


def test_a_memory_that_forgets_gives_the_same_words() -> None:
    small = ReferenceWords(known_chunks=16, block_characters=32)
    text = " ".join(f"it's-{i}, (a.{i}) word{i}. :-({i}" for i in range(300)) + "\n" * 40 + "x" * 1500
    expected = Words(text)._split
    for _ in range(2):
        found = small.split(text, code_points(text))
        assert all(map(np.array_equal, found, expected))
    assert small._used[0] <= 16 + 32 // 2 + 1 + len(small._rules)


def test_a_long_run_is_one_word_in_little_time() -> None:
    text = ")" * (chunks.LONGEST_CHUNK + 1)
    assert Words(text).words == [text]
    assert len(Words(")" * chunks.LONGEST_CHUNK).words) == chunks.LONGEST_CHUNK
    assert len(Words("x " * 10 + "y" * 1_000_000).words) == 11


def test_half_a_surrogate_pair_is_a_character() -> None:
    assert Words("a \ud800b").words == ["a", "\ufffd", "b"]
    assert Words("a \ud800b", "fast").word_count == 3


@settings(deadline=None)  # compiled at the first call
@given(st.text(max_size=80))
def test_fast_words_leave_out_blanks_only(text: str) -> None:
    found = Words(text, "fast").words
    assert "".join(found) == "".join(text.split())
    assert all(each and not any(map(str.isspace, each)) for each in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('He said: "don\'t!"', ["He", "said", ":", '"', "do", "n't", "!", '"']),
        ("It’s well-known (3.5)...", ["It", "’s", "well", "-", "known", "(", "3.5", ")", "..."]),
        ("see http://a.b/c-d, or a/b", ["see", "http://a.b/c-d", ",", "or", "a", "/", "b"]),
        ("#tag x_y $5 -", ["#", "tag", "x_y", "$", "5", "-"]),
        ("A. B. Name. U.S. a. it.", ["A.", "B.", "Name", ".", "U.S.", "a.", "it", "."]),
        (
            "lower.Upper os.path 1-2, 's |--| /etc",
            ["lower", ".", "Upper", "os.path", "1", "-", "2", ",", "'s", "|--|", "/etc"],
        ),
        ("we'd I'm they're kill'd ne'er", ["we", "'d", "I", "'m", "they", "'re", "kill'd", "ne'er"]),
        ("日本語。 слово,", ["日本語", "。", "слово", ","]),
        ("?!", ["?", "!"]),
        ("", []),
    ],
)
def test_fast_words(text: str, expected: list[str]) -> None:
    assert Words(text, "fast").words == expected


def test_character_sets_are_the_peers() -> None:
    pytest.importorskip("datatrove")
    from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
    from spacy.pipeline.sentencizer import Sentencizer

    assert LINE_ENDS == TERMINAL_PUNCTUATION
    assert SYMBOLS == PUNCTUATION_SET
    assert set(Sentencizer.default_punct_chars) == SENTENCE_ENDS
    beyond = map(chr, range(TABLE_SIZE, 0x110000))
    assert not any(each.isspace() or each.isalpha() or each in SYMBOLS for each in beyond)
    assert len(character_table()) == TABLE_SIZE


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "cccc"]), max_size=60)


@settings(deadline=None)  # compiled at the first call
@given(WORDS, st.integers(1, 6))
def test_top_ngram_against_counting_texts(found: list[str], n: int) -> None:
    grams = [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]
    expected = (0, 0)
    if grams:
        gram, count = Counter(grams).most_common(1)[0]  # of equal counts the first
        expected = len(gram) * count, count
    assert (
        Words(" , ".join(found), "fast").top_ngram(n, False)
        == Words(" ".join(found), "fast").top_ngram(n, True)
        == expected
    )


@settings(deadline=None)  # compiled at the first call
@given(WORDS, st.integers(1, 6))
def test_repeated_ngrams_against_comparing_texts(found: list[str], n: int) -> None:
    seen: set[str] = set()
    expected = position = 0
    while position + n <= len(found):
        gram = "".join(found[position : position + n])
        if gram in seen:
            expected += len(gram)
            position += n
        else:
            seen.add(gram)
            position += 1
    assert Words("\t".join(found), "fast").repeated_ngrams(n, True) == expected


@settings(deadline=None)  # compiled at the first call
@given(TEXTS)
def test_counts_against_looking_at_each_word(text: str) -> None:
    document = Words(text, "fast")
    speaking = [each for each in document.words if set(each) - SYMBOLS]
    assert document.counts == (
        len(document.words),
        len(speaking),
        sum(map(len, speaking)),
        sum(any(map(str.isalpha, each)) for each in document.words),
        len(set(document.words) & set(counts.STOP_WORDS)),
    )


def test_the_tokenizer_is_not_loaded_for_fast_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "reference_words", None)
    assert Words("no tokenizer", "fast").word_count == 2
