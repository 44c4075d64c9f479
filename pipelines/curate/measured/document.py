"""One document and what is measured in it: each value is asked for by name, and measured if nobody has kept it.

Deciding asks for one value after the other and stops at the first that breaks a limit; what nobody asks for is not
measured. Values that were kept from an earlier run are the same numbers, so the decision is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pipelines.curate.config import CurateConfig
from pipelines.curate.language import identify_language
from pipelines.curate.measured.groups import CLEANED_TEXTS, group_of
from pipelines.curate.normalise import normalise
from pipelines.curate.quality_chain import Asked, QualityChain
from pipelines.curate.redact import PLACEHOLDERS, redact

NOTHING_KEPT: Mapping[str, Any] = {}


class Document:
    """A document of the corpus.

    Args:
        source: its text as it came in.
        kept: values kept of it, by column of ``scores/`` and of the texts; none is None.

    Attributes:
        values: column of ``scores/`` -> what was asked for.
        remembered, measured: group -> values that were kept, and that were not.
    """

    def __init__(
        self, source: str, config: CurateConfig, chain: QualityChain, kept: Mapping[str, Any] = NOTHING_KEPT
    ) -> None:
        self._source, self._config, self._kept = source, config, kept
        self.values: dict[str, Any] = {}
        self.remembered: Counter[str] = Counter()
        self.measured: Counter[str] = Counter()
        self.rules: Asked = chain.asked(lambda: self.text, self.ask)

    def ask(self, column: str, measure: Callable[[], Any]) -> Any:
        """The value of a column of ``scores/``."""
        if column not in self.values:
            kept = self._kept.get(column)
            (self.measured if kept is None else self.remembered)[group_of(column)] += 1
            self.values[column] = measure() if kept is None else kept
        return self.values[column]

    @cached_property
    def text(self) -> str:
        """The text, normalised if the recipe says so."""
        return normalise(self._source, self._config.normalise) if self._config.normalise else self._source

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing but blanks."""
        return not self.ask("characters", lambda: len(self.text) if self.text.strip() else 0)

    @property
    def language(self) -> tuple[str, float]:
        """The likeliest language and its probability."""
        return (
            str(self.ask("language", lambda: self._identified[0])),
            float(self.ask("language_confidence", lambda: self._identified[1])),
        )

    @cached_property
    def _identified(self) -> tuple[str, float]:
        return identify_language(self.text)

    def redacted(self) -> tuple[str, dict[str, int]]:
        """The cleaned text without personal data, and how many placeholders of each type are in it."""
        kept = self._kept.get("text")
        if kept is not None:
            self.remembered[CLEANED_TEXTS] += 1
            return kept, {kind: self._kept[f"redacted_{kind}"] for kind in PLACEHOLDERS}
        self.measured[CLEANED_TEXTS] += 1
        text, counts = redact(self.rules.text, self._config.redact)
        return text, {kind: counts[kind] for kind in PLACEHOLDERS}
