"""The rules for repetition and quality in the order of FineWeb's pipeline: repetition, Gopher, C4, FineWeb."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.curate.c4 import c4, clean
from pipelines.curate.config import CurateConfig
from pipelines.curate.fineweb import fineweb
from pipelines.curate.quality import gopher_quality
from pipelines.curate.repetition import gopher_repetition
from pipelines.curate.rules import judge
from pipelines.curate.words import Words


@dataclass(frozen=True)
class Tagged:
    """All that the rules measure in a document: set of rules -> score -> number, and the text that C4 leaves."""

    text: str
    scores: dict[str, dict[str, float]]


class QualityChain:
    """The sets of rules that a recipe asks for, made once and used for many documents."""

    def __init__(self, config: CurateConfig) -> None:
        self._splitter = config.words
        self._clean_rules = config.c4
        self._repetition = gopher_repetition(config.gopher_repetition) if config.repetition else None
        self._gopher = gopher_quality(config.gopher_quality) if "gopher" in config.quality else None
        self._c4 = c4(config.c4) if "c4" in config.quality else None
        self._fineweb = fineweb(config.fineweb) if "fineweb" in config.quality else None

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

    def judge(self, tagged: Tagged) -> str | None:
        """What ``decide`` says, from scores that were kept, under this recipe's thresholds.

        Only limits may differ from the recipe that the scores were made with: C4's line rules change the text and the
        scores behind them. KeyError for a score that was not kept.
        """
        sets = {
            "gopher_repetition": self._repetition,
            "gopher_quality": self._gopher,
            "c4": self._c4,
            "fineweb": self._fineweb,
        }
        for name, rules in sets.items():
            if rules and (reason := judge(tagged.scores[name], rules.limits)):
                return reason
            if name == "c4" and not tagged.text.strip():
                return "empty"
        return None
