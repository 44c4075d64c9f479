"""Which documents are contaminated, by which suite, and how much of each benchmark the corpus holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.curate.decontaminate.config import DecontaminateConfig
from pipelines.curate.decontaminate.index import BenchmarkIndex, Hits

REASON = "contaminated"
METHOD = (
    "Words are runs of letters and digits without case (NFKC). A question, followed by its right answers or by its "
    "choices, is found where a document holds one of its n-grams (Brown et al. 2020, arXiv:2005.14165, appendix C), or "
    "the share of them that min_share asks for."
)


@dataclass(frozen=True)
class Found:
    """A document that holds n-grams of the benchmarks.

    Attributes:
        content: equal exactly for documents of equal content, so that copies count once.
    """

    id: str
    content: bytes
    hits: Hits


@dataclass
class TaskCount:
    """What is known of one task or suite.

    Attributes:
        unchecked: questions with too few words of their own to be looked for.
        found: questions that some document holds.
        documents: documents that hold a question of it.
    """

    questions: int = 0
    unchecked: int = 0
    found: int = 0
    documents: int = 0

    @property
    def rate(self) -> float:
        """Questions found / questions."""
        return self.found / self.questions if self.questions else 0.0


@dataclass
class Contamination:
    """The outcome.

    Attributes:
        reasons: id -> ``contaminated.<suite>``, by the suite with most questions in the document, for each
            contaminated document.
        suites, tasks: name -> counts, in the benchmark's order.
        common: n-grams that did not count because they are in more than ``max_documents`` documents.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    suites: dict[str, TaskCount] = field(default_factory=dict)
    tasks: dict[str, TaskCount] = field(default_factory=dict)
    common: int = 0

    def to_json(self, config: DecontaminateConfig, benchmarks: Mapping[str, Any], checked: int) -> dict[str, Any]:
        """What contamination.json holds; ``left`` is what of the questions found is still in the published corpus."""

        def rows(counts: Mapping[str, TaskCount]) -> dict[str, Any]:
            return {
                name: {
                    "questions": each.questions,
                    "unchecked": each.unchecked,
                    "found": each.found,
                    "rate": each.rate,
                    "left": 0 if config.remove else each.found,
                    "left_rate": 0.0 if config.remove else each.rate,
                    "documents": each.documents,
                }
                for name, each in counts.items()
            }

        return {
            "method": METHOD,
            "settings": config.model_dump(mode="json"),
            "benchmarks": benchmarks["benchmarks"],
            "benchmarks_sha256": benchmarks["benchmarks_sha256"],
            "documents_checked": checked,
            "documents_contaminated": len(self.reasons),
            "documents_removed": len(self.reasons) if config.remove else 0,
            "common_ngrams": self.common,
            "suites": rows(self.suites),
            "tasks": rows(self.tasks),
        }


def judge(found: Iterable[Found], index: BenchmarkIndex, config: DecontaminateConfig) -> Contamination:
    """Decide over all documents together; only those that hold anything of the benchmarks are asked for."""
    documents = list(found)
    ignored = _common(documents, index, config.max_documents)
    suite_names = list(dict.fromkeys(index.task_suites))
    suite_of_task = np.array([suite_names.index(each) for each in index.task_suites], np.int64)
    outcome = Contamination(common=int(ignored.sum()))
    in_corpus = np.zeros(len(index.tasks), bool)
    by_task: Counter[int] = Counter()
    by_suite: Counter[int] = Counter()
    for each in documents:
        counting = each.hits.phrases[~ignored[each.hits.phrases]]
        held = index.questions_held(counting, config.min_share)
        if not len(held):
            continue
        in_corpus[held] = True
        tasks = index.tasks[held]
        suites, weights = np.unique(suite_of_task[tasks], return_counts=True)
        by_task.update(set(tasks.tolist()))
        by_suite.update(suites.tolist())
        outcome.reasons[each.id] = f"{REASON}.{suite_names[suites[int(np.argmax(weights))]]}"
    suites_of_questions = suite_of_task[index.tasks] if len(index.tasks) else np.empty(0, np.int64)
    outcome.tasks = _counts(index.task_names, index.tasks, index, in_corpus, by_task)
    outcome.suites = _counts(suite_names, suites_of_questions, index, in_corpus, by_suite)
    return outcome


def _common(documents: list[Found], index: BenchmarkIndex, most: int | None) -> Any:
    counts = np.zeros(len(index.phrases.hashes), np.int64)
    if most is not None:
        for hits in {each.content: each.hits for each in documents}.values():
            counts[hits.phrases] += 1
    return counts > most if most is not None else np.zeros(len(counts), bool)


def _counts(
    names: Iterable[str], group: Any, index: BenchmarkIndex, in_corpus: Any, documents: Counter[int]
) -> dict[str, TaskCount]:
    counts = {}
    checked = index.checked
    for number, name in enumerate(names):
        own = group == number
        counts[name] = TaskCount(
            questions=int(own.sum()),
            unchecked=int((own & ~checked).sum()),
            found=int((own & in_corpus).sum()),
            documents=documents[number],
        )
    return counts
