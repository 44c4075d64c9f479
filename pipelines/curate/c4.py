"""C4's rules (Raffel et al. 2020, JMLR 21:140, section 2.2): lines are removed, then the document is judged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from pipelines.curate.config import C4Config
from pipelines.curate.rules import Limit, Measures, RuleSet, at_least, at_most
from pipelines.curate.words import Splitter, Words

_TERMINAL = (".", "!", "?", '"', "'")
_ELLIPSIS = "..."
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")


@dataclass(frozen=True)
class Cleaned:
    """What C4's line rules leave of a document.

    Attributes:
        text: the lines that stay.
        lines: the same without blanks around them; those that were blank are not in it if they stay as layout.
        lorem_ipsum, curly_bracket: the first line with one that the rules for shape leave, from 1, or 0.
    """

    text: str
    lines: list[str]
    lorem_ipsum: int
    curly_bracket: int
    splitter: Splitter

    @cached_property
    def sentences(self) -> int:
        """Sentences in the lines, at least one in each."""
        return Words("\n".join(self.lines), self.splitter).sentences if self.lines else 0


def clean(text: str, rules: C4Config, splitter: Splitter = "reference") -> Cleaned:
    """Apply the line rules in the order of datatrove's code."""
    lowered = text.lower()
    javascript, policy = "javascript" in lowered, any(phrase in lowered for phrase in _POLICY)
    lorem, curly = "lorem ipsum" in lowered, "{" in text
    cites = rules.citations and "[" in text
    suspicious = lorem or curly or (rules.javascript and javascript) or (rules.policy and policy)
    layout = rules.keep_layout
    kept, stripped_lines = [], []
    first_lorem = first_curly = 0
    for number, line in enumerate(text.split("\n") if layout else text.splitlines(), 1):
        stripped = line.strip()
        if not _has_shape(stripped, rules, cites):
            continue
        if cites:
            stripped = _CITATION.sub("", stripped)
            line = _CITATION.sub("", line)
        if suspicious:
            small = stripped.lower()
            if "lorem ipsum" in small:
                first_lorem = first_lorem or number
            if rules.javascript and "javascript" in small:
                continue
            if "{" in stripped:
                first_curly = first_curly or number
            if rules.policy and any(phrase in small for phrase in _POLICY):
                continue
        kept.append(line if layout else stripped)
        if stripped or not layout:
            stripped_lines.append(stripped)
    remaining = "\n".join(kept)
    return Cleaned(remaining if layout else remaining.strip(), stripped_lines, first_lorem, first_curly, splitter)


def _has_shape(line: str, rules: C4Config, cites: bool) -> bool:
    """Whether a line, stripped, has no too long word, a sentence's end and enough words, as far as is asked."""
    longest = rules.max_word_characters
    if longest is not None and len(line) > longest and max(map(len, line.split())) > longest:
        return False
    if rules.terminal_punctuation:
        end = _CITATION.sub("", line) if cites else line
        if not end.endswith(_TERMINAL) or end.endswith(_ELLIPSIS):
            return False
    fewest = rules.min_words_in_line
    return fewest is None or len(line.split(None, fewest)) >= fewest


def c4(rules: C4Config) -> RuleSet[Cleaned]:
    """The rules for what is left of a document; of lorem ipsum and curly brackets the line that comes first counts."""
    limits: list[Limit] = []
    if rules.lorem_ipsum:
        score = "lorem_ipsum_first" if rules.curly_bracket else "lorem_ipsum"
        limits += at_most("c4.lorem_ipsum", score, 0)
    if rules.curly_bracket:
        limits += at_most("c4.curly_bracket", "curly_bracket", 0)
    limits += at_least("c4.min_sentences", "sentences", rules.min_sentences)
    fewest = rules.min_sentences or 0

    def enough_sentences(document: Cleaned) -> float:
        """The lines are counting enough where there are that many of them."""
        return fewest if len(document.lines) >= fewest else document.sentences

    return RuleSet(MEASURES, tuple(limits), {"sentences": enough_sentences})


def _lorem_ipsum_first(document: Cleaned) -> float:
    return float(document.lorem_ipsum > 0 and not 0 < document.curly_bracket < document.lorem_ipsum)


MEASURES: Measures[Cleaned] = {
    "sentences": lambda document: document.sentences,
    "lorem_ipsum": lambda document: float(document.lorem_ipsum > 0),
    "lorem_ipsum_first": _lorem_ipsum_first,
    "curly_bracket": lambda document: float(document.curly_bracket > 0),
}
"""Sentences; whether there is one (1 or 0), and whether it comes before every curly bracket."""
