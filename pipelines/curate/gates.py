"""What a document must pass besides the quality rules: licences, classifier, own filters, toxicity, benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.store import Store
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.classifier.model import load_classifier
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.index import BenchmarkIndex, load_index
from pipelines.curate.decontaminate.verdict import ContaminationTally
from pipelines.curate.mix.licences import refusal
from pipelines.curate.own_filters.run import apply_filters

LICENCE = "licence"
TOXIC = "audit.toxic"
CLASSIFIER = "classifier"


class Gates:
    """The gates of one part of the corpus.

    Args:
        benchmarks: store key of the benchmark index, where the recipe decontaminates.
        classifier: store key of the trained classifier, where the recipe has one.

    Attributes:
        contamination: what was found of the benchmarks so far.
    """

    def __init__(
        self, config: CurateConfig, store: Store, benchmarks: str | None, classifier: str | None = None
    ) -> None:
        self._config = config
        self._index: BenchmarkIndex | None = load_index(store, benchmarks) if benchmarks else None
        self._classifier = None
        if classifier is not None and config.classifier is not None:
            self._classifier = load_classifier(config.classifier, store, classifier)
        self.contamination = ContaminationTally()

    def refuses_licence(self, licence: str) -> bool:
        """Whether documents under a licence are left out (``licences.on_refusal: drop``)."""
        licences = self._config.licences
        return licences is not None and licences.on_refusal == "drop" and refusal(licence, licences) is not None

    def score(self, text: str) -> float | None:
        """The classifier's score of a cleaned text, None without a classifier."""
        return self._classifier.score(text) if self._classifier is not None else None

    def refuse(self, row: Mapping[str, Any], text: str) -> str | None:
        """The reason of the first gate that refuses a document that passed the quality rules, or None.

        Args:
            row: the corpus row, with the language if it was identified and the score if there is a classifier.
            text: its cleaned text.

        Raises:
            UserError: one of the user's filters failed.
        """
        score, settings = row.get("quality_score"), self._config.classifier
        if score is not None and settings is not None and settings.threshold is not None and score < settings.threshold:
            return CLASSIFIER
        reason = apply_filters(row, text, self._config.filters)
        if reason:
            return reason
        return self._toxic(text) or self._contaminated(text)

    def _toxic(self, text: str) -> str | None:
        audit = self._config.audit
        if audit is None or audit.drop_above is None:
            return None
        return TOXIC if load_lexicon(audit).toxicity(text) > audit.drop_above else None

    def _contaminated(self, text: str) -> str | None:
        settings, index = self._config.decontaminate, self._index
        if settings is None or index is None:
            return None
        reason = self.contamination.add(index.find(text), index, settings)
        return reason if settings.remove else None
