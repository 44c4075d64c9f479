"""What each reason means, in a few words: for the funnel's table, and for the note beside a sample."""

from __future__ import annotations

import operator
import re

from pipelines.curate.rules import Limit

MEANING = {
    "licence": "licence is not one that may be published",
    "text.missing": "there is no text",
    "text.wrong_type": "the text is no text: a number, a list, bytes that are no UTF-8",
    "empty": "nothing but blanks, as read or behind C4's line rules",
    "language": "another language, or too uncertain",
    "gopher_repetition.duplicate_paragraphs": "share of paragraphs that are repeated",
    "gopher_repetition.duplicate_paragraph_characters": "share of characters in repeated paragraphs",
    "gopher_repetition.duplicate_lines": "share of lines that are repeated",
    "gopher_repetition.duplicate_line_characters": "share of characters in repeated lines",
    "gopher_quality.min_words": "words that are more than symbols",
    "gopher_quality.max_words": "words that are more than symbols",
    "gopher_quality.min_mean_word_length": "mean word length in characters",
    "gopher_quality.max_mean_word_length": "mean word length in characters",
    "gopher_quality.hash_signs": "hash signs for each word",
    "gopher_quality.ellipses": "ellipses for each word",
    "gopher_quality.bullet_lines": "share of lines that begin with a bullet",
    "gopher_quality.ellipsis_lines": "share of lines that end with an ellipsis",
    "gopher_quality.alphabetic_words": "share of words with a letter",
    "gopher_quality.stop_words": "different stop words",
    "c4.lorem_ipsum": "the phrase lorem ipsum",
    "c4.curly_bracket": "a curly bracket",
    "c4.min_sentences": "sentences left behind the line rules",
    "fineweb.empty": "lines that are not blank",
    "fineweb.line_punctuation": "share of lines that end with terminal punctuation",
    "fineweb.short_lines": "share of lines that are short",
    "fineweb.duplicate_line_characters": "share of characters in repeated lines",
    "fineweb.line_ends": "line ends for each word",
    "classifier": "score of the quality classifier",
    "audit.toxic": "toxic terms for each 1,000 words",
    "duplicate.exact": "the same words as another document",
    "duplicate.near": "nearly the same as another document (MinHash)",
    "duplicate.earlier": "stands in a corpus curated earlier",
    "duplicate.text": "every passage stands elsewhere too",
    "mix.weight": "sound, but the source's weight in the mix left no room",
    "mix.cap": "sound, but beyond the source's cap in the mix",
}
_NGRAM = re.compile(r"gopher_repetition\.(top|duplicate)_(\d+)_grams?")


def meaning(reason: str) -> str:
    """What a reason stands for; an unknown one, of a filter of your own, for itself."""
    if found := _NGRAM.fullmatch(reason):
        which = "the most frequent run" if found[1] == "top" else "repeated runs"
        return f"share of characters in {which} of {found[2]} words"
    step, _, rest = reason.partition(".")
    if step == "contaminated":
        return f"holds questions of {rest}"
    if step == "filter":
        name, _, said = rest.partition(".")
        return f"your filter {name}" + (" failed" if said == "error" else f" said: {said}" if said else " said no")
    return MEANING.get(reason, reason)


def rule_order(reason: str) -> int:
    """Where a rule stands among those of its step: in the order in which they are tried."""
    if found := _NGRAM.fullmatch(reason):
        return _MANY * (1 if found[1] == "top" else 2) + int(found[2])
    return next((number for number, known in enumerate(MEANING) if known == reason), 0)


_MANY = 1000


def measured_note(limit: Limit, value: float) -> str:
    """What was measured against what was asked: ``words that are more than symbols: 12 (at least 50 wanted)``."""
    what = meaning(limit.reason)
    if limit.reason in ("c4.lorem_ipsum", "c4.curly_bracket"):
        return f"{what} stands in it"
    share = what.startswith("share")
    bound = "at most" if limit.breaks is operator.gt else "at least"
    digits = 0
    while digits < _MOST_DIGITS and _number(value, share, digits) == _number(limit.limit, share, digits):
        digits += 1  # a value just beyond the limit must not read as if it were within
    return f"{what}: {_number(value, share, digits)} ({bound} {_number(limit.limit, share, 0)} wanted)"


_MOST_DIGITS = 6


def _number(value: float, share: bool, more_digits: int) -> str:
    if share:
        return f"{value:.{1 + more_digits}%}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{3 + more_digits}g}"
