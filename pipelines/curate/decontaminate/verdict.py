"""Which documents are contaminated, by which suite, and how much of each benchmark the corpus holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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


@dataclass
class ContaminationTally:
    """What the documents of a part, or of all parts, hold of the benchmarks.

    Attributes:
        checked, contaminated: documents looked at, and those of them that hold a question.
        questions: numbers of the questions found.
        by_suite, by_task: documents that hold a question of each.
    """

    checked: int = 0
    contaminated: int = 0
    questions: set[int] = field(default_factory=set)
    by_suite: Counter[str] = field(default_factory=Counter)
    by_task: Counter[str] = field(default_factory=Counter)

    def add(self, hits: Hits | None, index: BenchmarkIndex, config: DecontaminateConfig) -> str | None:
        """Count a document and say why it is contaminated: ``contaminated.<suite>``, or None.

        The suite is the one with most questions in the document, of equal ones the first.
        """
        self.checked += 1
        if hits is None:
            return None
        held = index.questions_held(hits.phrases, config.min_share)
        if not len(held):
            return None
        self.contaminated += 1
        self.questions.update(held.tolist())
        tasks = index.tasks[held].tolist()
        suites = Counter(index.task_suites[task] for task in tasks)
        self.by_task.update({index.task_names[task] for task in tasks})
        self.by_suite.update(suites.keys())
        most = max(suites.values())
        return f"{REASON}.{min(suite for suite, count in suites.items() if count == most)}"

    def merge(self, other: ContaminationTally) -> None:
        """Add what other documents hold."""
        self.checked += other.checked
        self.contaminated += other.contaminated
        self.questions |= other.questions
        self.by_suite.update(other.by_suite)
        self.by_task.update(other.by_task)

    def to_json(
        self, index: BenchmarkIndex, config: DecontaminateConfig, benchmarks: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What contamination.json holds: for each suite and task

        - ``questions``, and how many of them are ``unchecked`` (too short), ``found``; ``rate`` = found / questions
        - ``left``, ``left_rate``: what of it is still in the corpus
        - ``documents``: how many hold a question of it

        Args:
            benchmarks: the details of the BenchmarkText artifact.
        """
        in_corpus = np.zeros(len(index.tasks), bool)
        in_corpus[sorted(self.questions)] = True
        unchecked = ~index.checked

        def entry(own: Any, documents: int) -> dict[str, Any]:
            count, found = int(own.sum()), int((own & in_corpus).sum())
            left = 0 if config.remove else found
            return {
                "questions": count,
                "unchecked": int((own & unchecked).sum()),
                "found": found,
                "rate": found / count,
                "left": left,
                "left_rate": left / count,
                "documents": documents,
            }

        suites = np.array([index.task_suites[task] for task in index.tasks], np.str_)
        return {
            "method": METHOD,
            "settings": config.model_dump(mode="json"),
            "benchmarks": benchmarks["benchmarks"],
            "benchmarks_sha256": benchmarks["benchmarks_sha256"],
            "documents_checked": self.checked,
            "documents_contaminated": self.contaminated,
            "documents_removed": self.contaminated if config.remove else 0,
            "suites": {name: entry(suites == name, self.by_suite[name]) for name in sorted(set(index.task_suites))},
            "tasks": {
                name: entry(index.tasks == number, self.by_task[name]) for number, name in enumerate(index.task_names)
            },
        }
