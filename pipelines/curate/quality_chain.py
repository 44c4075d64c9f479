"""The rules for repetition and quality in the order of FineWeb's pipeline: repetition, Gopher, C4, FineWeb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pipelines.curate.c4 import Cleaned, c4, clean
from pipelines.curate.config import CurateConfig
from pipelines.curate.fineweb import fineweb
from pipelines.curate.quality import gopher_quality
from pipelines.curate.repetition import gopher_repetition
from pipelines.curate.rules import RuleSet, judge
from pipelines.curate.words import Words


class Scored(Protocol):
    """What the rules decide by: set of rules -> score -> number, and whether C4 leaves nothing but blanks."""

    @property
    def scores(self) -> Mapping[str, Mapping[str, float]]: ...

    @property
    def is_blank(self) -> bool: ...


@dataclass(frozen=True)
class Tagged:
    """All that the rules measure in a document: set of rules -> score -> number, and the text that C4 leaves."""

    text: str
    scores: dict[str, dict[str, float]]

    @property
    def is_blank(self) -> bool:
        """Whether C4 leaves nothing but blanks."""
        return not self.text.strip()


Ask = Callable[[str, Callable[[], Any]], Any]
"""Gives a value by its name, or measures it."""


class QualityChain:
    """The sets of rules that a recipe asks for, made once and used for many documents."""

    def __init__(self, config: CurateConfig) -> None:
        self._splitter = config.words
        self._clean_rules = config.c4
        self._repetition = gopher_repetition(config.gopher_repetition) if config.repetition else None
        self._gopher = gopher_quality(config.gopher_quality) if "gopher" in config.quality else None
        self._c4 = c4(config.c4) if "c4" in config.quality else None
        self._fineweb = fineweb(config.fineweb) if "fineweb" in config.quality else None
        self.fewest_sentences = config.c4.min_sentences

    def decide(self, text: str) -> tuple[str, str | None]:
        """The text that stays and None, or the text as it was and the first rule that it breaks.

        ``empty`` is the reason for a document without anything but blanks, before the rules or behind C4's.
        """
        if not text or text.isspace():
            return text, "empty"
        words = Words(text, self._splitter)
        for rules in (self._repetition, self._gopher):
            if rules and (reason := rules.decide(words)):
                return text, reason
        remaining = text
        if self._c4:
            cleaned = clean(text, self._clean_rules, self._splitter)
            if reason := self._c4.decide(cleaned):
                return text, reason
            remaining = cleaned.text
            if not remaining or remaining.isspace():
                return text, "empty"
        if self._fineweb:
            left = words if remaining == text else Words(remaining, self._splitter)
            if reason := self._fineweb.decide(left):
                return text, reason
        return remaining, None

    def tag(self, text: str) -> Tagged:
        """Measure everything, also where a rule would drop the document before."""
        words = Words(text, self._splitter)
        scores = {}
        remaining = text
        if self._repetition:
            scores["gopher_repetition"] = self._repetition.scores(words)
        if self._gopher:
            scores["gopher_quality"] = self._gopher.scores(words)
        if self._c4:
            cleaned = clean(text, self._clean_rules, self._splitter)
            scores["c4"] = self._c4.scores(cleaned)
            remaining = cleaned.text
        if self._fineweb:
            scores["fineweb"] = self._fineweb.scores(Words(remaining, self._splitter))
        return Tagged(remaining, scores)

    @cached_property
    def sets(self) -> dict[str, RuleSet[Any]]:
        """The sets of rules that are on, in the order in which they are tried."""
        every: dict[str, RuleSet[Any] | None] = {
            "gopher_repetition": self._repetition,
            "gopher_quality": self._gopher,
            "c4": self._c4,
            "fineweb": self._fineweb,
        }
        return {name: rules for name, rules in every.items() if rules is not None}

    def asked(self, text: Callable[[], str], ask: Ask) -> Asked:
        """A document whose scores are asked for one by one, and measured where nobody has kept them.

        Args:
            text: gives the document's text, where something has to be measured in it.
            ask: gives a score by its name (``c4.sentences``), or measures it.
        """
        return Asked(self, text, ask)

    def clean(self, text: str) -> Cleaned | None:
        """What C4's line rules leave of a text; None where the recipe does not have them."""
        return clean(text, self._clean_rules, self._splitter) if self._c4 else None

    def split(self, text: str) -> Words:
        """The text with its words."""
        return Words(text, self._splitter)

    def judge(self, tagged: Scored) -> str | None:
        """What ``decide`` says, from scores that were kept, under this recipe's thresholds.

        Only limits may differ from the recipe that the scores were made with: C4's line rules change the text and the
        scores behind them. KeyError for a score that was not kept.
        """
        for name, rules in self.sets.items():
            if reason := judge(tagged.scores[name], rules.limits):
                return reason
            if name == "c4" and tagged.is_blank:
                return "empty"
        return None


class Asked:
    """See :meth:`QualityChain.asked`. Everything is computed once, when it is first asked for."""

    def __init__(self, chain: QualityChain, text: Callable[[], str], ask: Ask) -> None:
        self._chain, self._source, self._ask = chain, text, ask
        sets = chain.sets
        self.scores: dict[str, Mapping[str, float]] = {
            name: _Scores(name, rules, self._ask, self._subject(name)) for name, rules in sets.items()
        }
        self.deciding = Deciding(self, dict(self.scores))
        if "c4" in self.scores and chain.fewest_sentences:
            rules, lines = sets["c4"], self._subject("c4")
            self.deciding.scores["c4"] = _EnoughSentences("c4", rules, ask, lines, chain.fewest_sentences)

    @property
    def is_blank(self) -> bool:
        """Whether C4 leaves nothing but blanks."""
        return not self._ask("c4.characters", lambda: len(self.text) if self.text.strip() else 0)

    @cached_property
    def text(self) -> str:
        """What C4's line rules leave of the document; all of it where the recipe does not have them."""
        return self._cleaned.text if self._cleaned is not None else self._source()

    @cached_property
    def _cleaned(self) -> Cleaned | None:
        return self._chain.clean(self._source())

    @cached_property
    def _words(self) -> Words:
        return self._chain.split(self._source())

    @cached_property
    def _words_left(self) -> Words:
        return self._words if self.text == self._source() else self._chain.split(self.text)

    def _subject(self, name: str) -> Callable[[], Any]:
        if name == "c4":
            return lambda: self._cleaned
        return lambda: self._words_left if name == "fineweb" else self._words


class _Scores(Mapping[str, float]):
    """The scores of one set of rules."""

    def __init__(self, name: str, rules: RuleSet[Any], ask: Ask, subject: Callable[[], Any]) -> None:
        self._name, self._measures, self._ask, self._subject = name, rules.measures, ask, subject

    def __getitem__(self, score: str) -> float:
        measure = self._measures[score]
        return float(self._ask(f"{self._name}.{score}", lambda: measure(self._subject())))

    def __iter__(self) -> Iterator[str]:
        return iter(self._measures)

    def __len__(self) -> int:
        return len(self._measures)


class _EnoughSentences(_Scores):
    """The scores of C4 where only the limit counts: as many lines as sentences are wanted are enough."""

    def __init__(self, name: str, rules: RuleSet[Any], ask: Ask, subject: Callable[[], Any], fewest: int) -> None:
        super().__init__(name, rules, ask, subject)
        self._fewest = fewest

    def __getitem__(self, score: str) -> float:
        if score == "sentences" and self._ask("c4.lines", lambda: len(self._subject().lines)) >= self._fewest:
            return self._fewest
        return super().__getitem__(score)


@dataclass(frozen=True)
class Deciding:
    """A document as :meth:`QualityChain.judge` looks at it: no more is asked than the limits need."""

    document: Asked
    scores: dict[str, Mapping[str, float]]

    @property
    def is_blank(self) -> bool:
        """Whether C4 leaves nothing but blanks."""
        return self.document.is_blank
