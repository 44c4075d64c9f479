"""An evaluation to compare: from the store (by its id, its name, or its model's) or from a folder with its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.artifact import Artifact, find_artifact, list_artifacts
from cluster.errors import UserError
from cluster.store import Store
from evals.decide.stock import find_stock, read_stock

KIND = "EvalReport"
SHOWN_CHARACTERS = 600

Key = tuple[str, str, int]
"""(task, hash of the document, how many equal ones came before it): the same document in both evaluations."""


@dataclass(frozen=True)
class Document:
    """What a model did with one document of one task.

    Attributes:
        metrics: the task's values for this document.
        prompt: the end of what the model read; all of it where it wrote, since a judge has to know it.
        answers: each choice with its log-probability; empty where the model wrote.
        output: what the model wrote; empty where it chose.
        target: the right choice's number, or the reference.
        weight: what it counts in its suite's mean.
    """

    task: str
    doc_hash: str
    metrics: Mapping[str, float]
    prompt: str
    answers: tuple[tuple[str, float], ...]
    output: str
    target: Any
    weight: float = 1.0

    @property
    def chosen(self) -> str:
        """What the model answered, in words."""
        return max(self.answers, key=lambda answer: answer[1])[0].strip() if self.answers else self.output.strip()

    @property
    def right(self) -> str:
        """What was right, in words."""
        if self.answers and isinstance(self.target, int) and 0 <= self.target < len(self.answers):
            return self.answers[self.target][0].strip()
        return str(self.target)


@dataclass(frozen=True)
class Measured:
    """One evaluation.

    Attributes:
        name: what a person called it by.
        model: what was evaluated, as the evaluation says: an artifact's id, a folder, a name or a URL.
        results: ``results.json``.
        suites: suite -> its documents by key, in order.
        artifact: the record, where it is from a store.
        metrics: what the record measured, perplexities included; of a folder what its results say.
    """

    name: str
    model: str
    results: Mapping[str, Any]
    suites: Mapping[str, Mapping[Key, Document]]
    artifact: Artifact | None
    metrics: Mapping[str, float]

    @property
    def questions(self) -> str:
        """Which set the suites' questions are of: ``sample``, ``mirror``, ``hub``."""
        return str(self.results.get("benchmarks", ""))

    @property
    def partial(self) -> str:
        """What was not answered, in words; empty where everything was."""
        return str(self.results.get("unanswered", ""))

    def label(self, name: str) -> str:
        """A suite's, task's or metric's name with its set of questions; held-out sets of one's own have none."""
        suite = name.partition(".")[0]
        known = suite in self.results["tasks"] or any(suite in tasks for tasks in self.results["subtasks"].values())
        return f"{name} ({self.questions})" if known and self.questions else name

    def sides(self, name: str) -> Mapping[str, bool | None] | None:
        """Whether more is better, by metric, as a suite or task says itself; None where nothing is recorded."""
        told: Mapping[str, bool | None] | None = self.results.get("higher_is_better", {}).get(name)
        return told

    def recorded(self, suite: str, metric: str) -> float | None:
        """The suite's score as the evaluation reported it."""
        figures = self.results["tasks"].get(suite, {}).get(metric)
        return None if figures is None else float(figures["score"])


def load_measured(store: Store, reference: str) -> Measured:
    """Read an evaluation.

    Args:
        reference: a folder with ``results.json`` and ``samples/``, an EvalReport's id or name (newest), or a model
            (artifact, or folder of weights) whose newest evaluation in the store is meant.

    Raises:
        UserError: there is none, or it lacks its documents.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir() and (folder / "config.json").is_file() and not (folder / "results.json").is_file():
        return _of_model_folder(store, folder.resolve())
    if folder.is_dir():
        return _from_folder(folder)
    return _from_artifact(store, _report_of(store, reference), reference)


def _of_model_folder(store: Store, folder: Path) -> Measured:
    """The newest evaluation of just these weights, under the name that serving has for a folder: its path."""
    from evals.sources import FolderSource

    content = FolderSource(folder).content_sha256
    for report in reversed(list_artifacts(store, KIND)):
        if report.details.get("model") == folder.name:
            found = _from_artifact(store, report, folder.name)
            if found.results["model"].get("content_sha256") == content:
                return replace(found, model=str(folder))
    raise UserError(
        "nothing in the store has evaluated these weights",
        where=str(folder),
        next_step=f"`raymill eval {folder}` does; one of other weights in this folder does not count",
    )


def _from_artifact(store: Store, artifact: Artifact, reference: str) -> Measured:
    names = [entry.path for entry in artifact.files]
    return _measured(
        reference,
        lambda path: store.read(artifact.key(path)),
        [name for name in names if name.startswith("samples/")],
        artifact,
    )


def _from_folder(folder: Path) -> Measured:
    name = folder.resolve().name
    if (folder / "results.json").is_file():
        samples = sorted(path.relative_to(folder).as_posix() for path in (folder / "samples").glob("*.jsonl"))
        return _measured(name, lambda path: (folder / path).read_bytes(), samples, None)
    stock = find_stock(folder)
    if stock is None:
        raise UserError(
            "is not the folder of an evaluation: it has no results.json, and none of lm-eval's results",
            where=str(folder),
            next_step="name a folder that holds results.json and samples/, or an evaluation of the store",
        )
    try:
        results, rows = read_stock(stock)
        suites = {suite: _keyed(suite, own) for suite, own in rows.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(str(stock[0]), error) from error
    return Measured(name, str(results["model"]["id"]), results, suites, None, _metrics(results))


def _report_of(store: Store, reference: str) -> Artifact:
    """The evaluation that is meant: itself, or the newest of a model."""
    reports = list_artifacts(store, KIND)
    of_model = [each for each in reports if str(each.details.get("model", "")) == reference]
    if of_model:
        return of_model[-1]
    found = find_artifact(store, reference)
    if found.kind == KIND:
        return found
    own = [each for each in reports if "model" in each.inputs and each.inputs["model"].id == found.id]
    if not own:
        known = ", ".join(each.id for each in reports[-5:]) or "none yet"
        raise UserError("nothing in the store has evaluated it", where=found.id, next_step=f"evaluations here: {known}")
    return own[-1]


def _measured(name: str, read: Callable[[str], bytes], samples: list[str], artifact: Artifact | None) -> Measured:
    try:
        results = json.loads(read("results.json"))
        suites = {Path(path).stem: _documents(path, read(path)) for path in samples}
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(name, error) from error
    model = str(results.get("model", {}).get("id", name))
    metrics = dict(artifact.metrics) if artifact else _metrics(results)
    return Measured(name, model, results, suites, artifact, metrics)


def _unreadable(where: str, error: Exception) -> UserError:
    return UserError(
        f"cannot be read: {type(error).__name__} {error}",
        where=where,
        next_step="it may be damaged (`raymill verify`) or of an earlier version: evaluate the model again",
    )


def _documents(path: str, data: bytes) -> dict[Key, Document]:
    return _keyed(Path(path).stem, [json.loads(line) for line in data.splitlines()])


def _keyed(suite: str, rows: Iterable[Mapping[str, Any]]) -> dict[Key, Document]:
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[Key, Document] = {}
    for row in rows:
        task = row.get("task", suite)
        place = (task, row["doc_hash"])
        found[(*place, seen[place])] = Document(
            task=task,
            doc_hash=row["doc_hash"],
            metrics=row["metrics"],
            prompt=str(row.get("prompt", ""))[-SHOWN_CHARACTERS if row.get("answers") else 0 :],
            answers=tuple((each["text"], each["logprob"]) for each in row.get("answers") or ()),
            output=str(row.get("output", "")),
            target=row.get("target"),
            weight=float(row.get("weight", 1.0)),
        )
        seen[place] += 1
    return found


def _metrics(results: Mapping[str, Any]) -> dict[str, float]:
    scored = results["tasks"] | {name: found["metrics"] for name, found in results.get("sets", {}).items()}
    values = {
        f"{suite}.{metric}": float(figures["score"])
        for suite, metrics in scored.items()
        for metric, figures in metrics.items()
    }
    return values | {f"heldout.{name}": float(value) for name, value in results.get("heldout", {}).items()}
