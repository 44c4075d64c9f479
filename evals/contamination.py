"""How much of the questions the model may have seen: what curation wrote into the corpus that the model learned from.

The corpus is found by the model's lineage, so that a model evaluated by its id says it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.artifact import Artifact, ancestors, contributors
from cluster.errors import UserError
from cluster.report import Page
from cluster.store import Store
from evals.benchmarks import BenchmarkSet

FILE = "contamination.json"


def find_contamination(
    store: Store, starts: Iterable[Artifact | None], benchmarks: BenchmarkSet
) -> dict[str, Any] | None:
    """The account of the corpora among some artifacts and their ancestors; None where none was searched.

    Where a model comes from several corpora, the account with more of a suite's questions left counts for that suite.

    Returns:
        ``corpora`` (ids), ``same_questions`` (whether they were searched for the very set that is asked now),
        ``suites`` and ``tasks`` (name -> questions, unchecked, found, rate, left, left_rate, documents).
    """
    merged: dict[str, Any] = {"corpora": [], "same_questions": True, "suites": {}, "tasks": {}}
    for corpus in _corpora(store, starts):
        try:
            account = json.loads(store.read(corpus.key(FILE)))
        except FileNotFoundError:
            continue
        merged["corpora"].append(corpus.id)
        merged["same_questions"] &= account["benchmarks_sha256"] == benchmarks.sha256
        for level in ("suites", "tasks"):
            for name, counts in account[level].items():
                known = merged[level].get(name)
                if known is None or (counts["left"], counts["found"]) > (known["left"], known["found"]):
                    merged[level][name] = counts
    return merged if merged["corpora"] else None


def _corpora(store: Store, starts: Iterable[Artifact | None]) -> Iterable[Artifact]:
    seen = set()
    for start in starts:
        if start is None:
            continue
        try:
            lineage = [artifact for _, _, artifact in contributors(ancestors(store, start)) if artifact is not None]
        except UserError:  # a damaged record among the ancestors is `raymill verify`'s matter; scores do not need it
            lineage = [start]
        for artifact in lineage:
            if artifact.kind == "Corpus" and artifact.id not in seen:
                seen.add(artifact.id)
                yield artifact


def columns(contamination: Mapping[str, Any] | None, task: str) -> dict[str, Any]:
    """What stands beside a task's score: shares of its questions found in the corpus, and left in it for training."""
    counts = _of(contamination, task)
    return {
        "found in corpus": f"{counts['rate']:.1%}" if counts else "not looked for",
        "left in training text": f"{counts['left_rate']:.1%}" if counts else "",
    }


def explain(page: Page, contamination: Mapping[str, Any] | None) -> None:
    """A paragraph on what the columns mean."""
    if contamination is None:
        page.paragraph(
            "Contamination: nobody has looked for these questions in the model's training text "
            "(curate.decontaminate does)."
        )
        return
    unchecked = sum(each["unchecked"] for each in contamination["suites"].values())
    page.paragraph(
        "Contamination: the share of a task's questions of which curation found an n-gram in the corpus, and the share "
        f"still there when the model was trained ({', '.join(contamination['corpora'])})."
        + (f" {unchecked:,} questions are too short to look for." if unchecked else "")
    )
    if not contamination["same_questions"]:
        page.paragraph("The corpus was searched for another set of questions than the one asked here.")


def metrics(contamination: Mapping[str, Any] | None, suites: Iterable[str]) -> dict[str, float]:
    """``<suite>.contamination`` (found) and ``<suite>.contamination_left`` for the artifact's record."""
    values = {}
    for suite in suites:
        counts = _of(contamination, suite)
        if counts:
            values[f"{suite}.contamination"] = float(counts["rate"])
            values[f"{suite}.contamination_left"] = float(counts["left_rate"])
    return values


def _of(contamination: Mapping[str, Any] | None, task: str) -> Mapping[str, Any] | None:
    if contamination is None:
        return None
    found: Mapping[str, Any] | None = contamination["suites"].get(task) or contamination["tasks"].get(task)
    return found
