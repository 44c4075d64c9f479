"""What a document must pass besides the quality rules: licences, classifier, own filters, toxicity, benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cluster.store import Store
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.classifier.model import load_classifier
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.index import BenchmarkIndex, Hits, load_index
from pipelines.curate.decontaminate.verdict import ContaminationTally
from pipelines.curate.mix.licences import refusal
from pipelines.curate.own_filters.run import apply_filters
from pipelines.curate.quality_chain import Ask

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

    def score(self, text: Callable[[], str], ask: Ask) -> float | None:
        """The classifier's score of a cleaned text, None without a classifier; arguments as of :meth:`refuse`."""
        classifier = self._classifier
        return float(ask("quality_score", lambda: classifier.score(text()))) if classifier is not None else None

    def refuse(self, row: Mapping[str, Any], text: Callable[[], str], ask: Ask) -> str | None:
        """The reason of the first gate that refuses a document that passed the quality rules, or None.

        Args:
            row: the corpus row, with the language if it was identified and the score if there is a classifier.
            text: gives its cleaned text, where something has to be measured in it.
            ask: gives what was measured by its name, or measures it.

        Raises:
            UserError: one of the user's filters failed.
        """
        score, settings = row.get("quality_score"), self._config.classifier
        if score is not None and settings is not None and settings.threshold is not None and score < settings.threshold:
            return CLASSIFIER
        filters = self._config.filters
        if filters and (reason := ask("filter", lambda: apply_filters(row, text(), filters) or "")):
            return str(reason)
        return self._toxic(text, ask) or self._contaminated(text, ask)

    def _toxic(self, text: Callable[[], str], ask: Ask) -> str | None:
        audit = self._config.audit
        if audit is None or audit.drop_above is None:
            return None
        return TOXIC if ask("toxicity", lambda: load_lexicon(audit).toxicity(text())) > audit.drop_above else None

    def _contaminated(self, text: Callable[[], str], ask: Ask) -> str | None:
        settings, index = self._config.decontaminate, self._index
        if settings is None or index is None:
            return None

        def ngrams() -> list[int]:
            hits = index.find(text())
            return hits.phrases.tolist() if hits is not None else []

        found = ask("benchmark_ngrams", ngrams)
        hits = Hits(np.array(found, np.int32), 0, 0) if found else None
        reason = self.contamination.add(hits, index, settings)
        return reason if settings.remove else None
