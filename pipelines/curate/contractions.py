"""English contractions written out, for models that count words: ``isn't`` becomes ``is not``.

Only what can be told from the word itself is written out. ``'s`` after a noun is left, since it mostly marks
possession; after a pronoun it becomes ``is`` and ``'d`` becomes ``would``, which are the likelier readings.
"""

from __future__ import annotations

import re

_WHOLE = {
    "can't": "cannot",
    "won't": "will not",
    "shan't": "shall not",
    "let's": "let us",
    "y'all": "you all",
    "'tis": "it is",
    "'twas": "it was",
}
_BEFORE_NOT = "is|are|was|were|do|does|did|has|have|had|could|should|would|might|must|need|dare|ought|may"
_BEFORE_IS = "it|he|she|that|there|here|what|who|where|how|when|why"
_BEFORE_WOULD = "i|you|he|she|it|we|they|who|there|that"
_WORD = re.compile(r"(?<![\w'’])['’]?[A-Za-z]+(?:['’][A-Za-z]+)+(?![\w])|(?<![\w'’])['’](?:tis|twas)\b", re.IGNORECASE)
_ENDINGS = (
    (re.compile(rf"({_BEFORE_NOT})n't$"), r"\1 not"),
    (re.compile(r"(\w+(?:n't)?)'ve$"), r"\1 have"),
    (re.compile(r"(\w+)'ll$"), r"\1 will"),
    (re.compile(r"(\w+)'re$"), r"\1 are"),
    (re.compile(r"(i)'m$"), r"\1 am"),
    (re.compile(rf"({_BEFORE_IS})'s$"), r"\1 is"),
    (re.compile(rf"({_BEFORE_WOULD})'d$"), r"\1 would"),
)


def expand_contractions(text: str) -> str:
    """The text with contractions written out; case is kept (Can't, WON'T)."""
    return _WORD.sub(_expand, text) if "'" in text or "’" in text else text


def _expand(match: re.Match[str]) -> str:
    word = match[0]
    plain = word.replace("’", "'").lower()
    done = _written_out(plain)
    if done == plain:
        return word
    if len(word) > 2 and word.isupper():
        return done.upper()
    if done.startswith("i "):
        return "I" + done[1:]
    if not next(each for each in word if each.isalpha()).isupper():
        return done
    place = next(place for place, each in enumerate(done) if each.isalpha())
    return done[:place] + done[place].upper() + done[place + 1 :]


def _written_out(word: str) -> str:
    """``wouldn't've`` takes two turns; each one leaves an apostrophe fewer."""
    if word in _WHOLE:
        return _WHOLE[word]
    for ending, written in _ENDINGS:
        done, changed = ending.subn(written, word)
        if changed:
            first, _, rest = done.partition(" ")
            return f"{_written_out(first)} {rest}"
    return word
