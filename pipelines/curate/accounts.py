"""What the record and the page say of contamination, the classifier, the audit and the sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact
from cluster.attempt import Attempt
from cluster.errors import InternalError
from cluster.report import Page
from cluster.stage import StageContext
from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.audit.report import audit_section, summarise
from pipelines.curate.audit.tally import AuditTally
from pipelines.curate.classifier.training import Quality, Trained, classifier_section
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.index import BenchmarkIndex, build_index, read_questions
from pipelines.curate.decontaminate.report import contamination_section
from pipelines.curate.decontaminate.verdict import ContaminationTally
from pipelines.curate.mix.record import account, mix_section
from pipelines.curate.mix.run import Mixture
from pipelines.curate.tag import TagSummary
from pipelines.curate.write import WriteSummary

if TYPE_CHECKING:
    from pipelines.curate.funnel import Funnel


@dataclass(frozen=True)
class Benchmarks:
    """What is looked for: the index, where workers read it, and the details of the artifact it was made of."""

    index: BenchmarkIndex
    key: str
    details: dict[str, Any]


def index_benchmarks(config: CurateConfig, text: Artifact | None, context: StageContext) -> Benchmarks | None:
    """Make the index of a BenchmarkText artifact and leave it where every worker reads it once.

    Raises:
        InternalError: the recipe decontaminates, and nobody handed the questions over.
    """
    if config.decontaminate is None:
        return None
    if text is None:
        raise InternalError("decontaminate is on and there is no input `benchmarks`", where="curate.decontaminate")
    with context.progress.step("index the benchmarks"):
        index = build_index(read_questions(context.store, text), config.decontaminate)
        key = context.output.resume_key("benchmarks.npz")
        context.store.write(key, index.to_bytes())
    return Benchmarks(index, key, text.details)


@dataclass(frozen=True)
class Accounts:
    """The accounts.

    Attributes:
        sources: see :func:`pipelines.curate.mix.record.account`.
        contamination, audit: what contamination.json and audit.json hold; None where the recipe does not ask for it.
        classifier: how good the trained classifier is, where there is one.
        scores: column of its plot -> documents, before and after.
    """

    sources: list[dict[str, Any]]
    contamination: dict[str, Any] | None
    audit: dict[str, Any] | None
    audited: AuditConfig | None
    classifier: Quality | None = None
    scores: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))

    @classmethod
    def of(
        cls,
        config: CurateConfig,
        tagged: Sequence[TagSummary],
        written: Sequence[WriteSummary],
        funnel: Funnel,
        mixture: Mixture | None,
        benchmarks: Benchmarks | None,
        trained: Trained | None = None,
    ) -> Accounts:
        """Add up the parts."""
        contamination = audit = None
        if benchmarks is not None and config.decontaminate is not None:
            found = ContaminationTally()
            for first in tagged:
                found.merge(first.contamination)
            contamination = found.to_json(benchmarks.index, config.decontaminate, benchmarks.details)
        if config.audit is not None:
            counted = AuditTally()
            for second in written:
                counted.merge(second.audit)
            if mixture is not None:
                counted.remove(mixture.summary.audit)
            audit = summarise(counted, config.audit)
        sources = account(funnel.before, funnel.after, mixture)
        quality = trained.quality if trained else None
        return cls(sources, contamination, audit, config.audit, quality, (funnel.before.scores, +funnel.after.scores))

    def write(self, output: Attempt) -> None:
        """Write contamination.json, classifier.json and audit.json, as far as there are any."""
        if self.contamination is not None:
            output.write_json("contamination.json", self.contamination)
        if self.classifier is not None:
            output.write_json("classifier.json", asdict(self.classifier))
        if self.audit is not None:
            output.write_json("audit.json", self.audit)

    def show(self, page: Page) -> None:
        """Add the sections to the report."""
        mix_section(page, self.sources)
        if self.contamination is not None:
            contamination_section(page, self.contamination)
        if self.classifier is not None:
            classifier_section(page, self.classifier, *self.scores)
        if self.audit is not None and self.audited is not None:
            audit_section(page, self.audit, self.audited)

    def metrics(self) -> dict[str, float]:
        """``contamination.<suite>``: the share of its questions that was found; and how good the classifier is."""
        suites = self.contamination["suites"] if self.contamination else {}
        learned = self.classifier.metrics() if self.classifier is not None else {}
        return {f"contamination.{name}": float(counts["rate"]) for name, counts in suites.items()} | learned
