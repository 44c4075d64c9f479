"""Stage ``evals``: a model's scores on lm-eval's suites and its perplexity on held-out text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact
from cluster.progress import Tracker
from cluster.stage import Outcome, StageContext
from cluster.store import Store
from evals import contamination
from evals.answers import AnswerBook
from evals.benchmarks import BenchmarkSet, open_benchmarks
from evals.config import EvalsConfig
from evals.decide.metrics import sides
from evals.fit import judge_fit
from evals.heldout import HELD_OUT, TRAINING, HeldOut
from evals.offline import offline
from evals.own_sets import SetResult, measure_set
from evals.report import build_report
from evals.results import leaf_tasks, metric_values, sample_rows, subtask_scores, suite_scores
from evals.sources import ModelSource, Source

if TYPE_CHECKING:
    from evals.harness import ClusterLM


@dataclass(frozen=True)
class Evaluation:
    """One model's results.

    Attributes:
        scores: lm-eval's own results, with samples.
        heldout: held-out figures; None where there was no corpus or they were not asked for.
        requests: continuations scored, and how many of them lost the beginning of their prompt, in all and by task.
        context_tokens: the model's longest sequence.
        unanswered: which questions have no answer, and why; empty where all have.
        sharing: what ``share_prefixes`` saved, or why it could not; None without it.
    """

    scores: dict[str, Any]
    heldout: HeldOut | None
    requests: int
    truncated: int
    truncated_by_task: dict[str, int]
    context_tokens: int
    unanswered: str = ""
    usage: Mapping[str, Any] | None = None
    sets: Mapping[str, SetResult] = field(default_factory=dict)
    sharing: Mapping[str, Any] | None = None


def run(config: EvalsConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Evaluate ``model`` (over ``base`` if it is an adapter), on ``corpus``'s validation split as well if given."""
    source = ModelSource(context.store, inputs["model"], inputs.get("base"))
    model = {"id": source.model.id, "fingerprint": source.model.fingerprint, "kind": source.model.kind}
    parents = [inputs.get("corpus"), source.model, inputs.get("base")]
    return evaluate_and_write(source, model, config, context, inputs.get("corpus"), parents)


def evaluate_and_write(
    source: Source,
    model: dict[str, Any],
    config: EvalsConfig,
    context: StageContext,
    corpus: Artifact | None = None,
    parents: Sequence[Artifact | None] = (),
) -> Outcome:
    """Evaluate a model and write ``results.json``, ``samples/`` and ``report.html``.

    Args:
        model: what ``results.json`` says of it.
        corpus: where its held-out text is.
        parents: artifacts in whose lineage curation may have looked for the questions.
    """
    benchmarks = open_benchmarks(config)
    evaluation = evaluate_model(source, context.store, benchmarks, config, context.progress, corpus)
    return write_results(evaluation, model, benchmarks, config, context, f"Evaluation of {source.name}", parents)


def write_results(
    evaluation: Evaluation,
    model: dict[str, Any],
    benchmarks: BenchmarkSet,
    config: EvalsConfig,
    context: StageContext,
    title: str,
    parents: Sequence[Artifact | None] = (),
) -> Outcome:
    """Write ``results.json``, ``samples/`` and ``report.html``; see :func:`evaluate_and_write`."""
    seen = contamination.find_contamination(context.store, parents, benchmarks)
    results = describe(evaluation, benchmarks, config) | {"model": model, "contamination": seen}
    if "url" in model:
        results["settings"]["backend"] = "url"
    samples = {suite: list(sample_rows(evaluation.scores, suite)) for suite in config.suites}
    questions = sum(map(len, samples.values()))
    samples |= {name: found.rows for name, found in evaluation.sets.items()}
    for number, loss in enumerate(evaluation.heldout.texts if evaluation.heldout else ()):
        samples.setdefault("heldout", []).append(loss.row(number, "heldout"))
    for suite, rows in samples.items():
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
        context.output.write_text(f"samples/{suite}.jsonl", "".join(lines))
    context.output.write_json("results.json", results)
    if evaluation.usage is not None:
        context.output.write_json("usage.json", evaluation.usage)
    page = build_report(title, benchmarks, results, samples, evaluation.usage)
    context.output.write_text("report.html", page.render())
    return Outcome(
        counts={"questions": questions, "requests": evaluation.requests},
        metrics=metric_values(results["tasks"])
        | contamination.metrics(seen, config.suites)
        | (evaluation.heldout.metrics() if evaluation.heldout else {})
        | _set_metrics(evaluation.sets),
        details={
            "benchmarks": benchmarks.label,
            "benchmarks_sha256": benchmarks.sha256,
            "tasks": results["tasks"],
            "limit": config.limit,
            "sample": config.sample,
            "model": model["id"],
        }
        | ({"unanswered": evaluation.unanswered} if evaluation.unanswered else {}),
    )


def _set_metrics(sets: Mapping[str, SetResult]) -> dict[str, float]:
    """``<set>.<metric>`` of every held-out set."""
    return {
        f"{name}.{metric}": float(figures["score"])
        for name, found in sets.items()
        for metric, figures in found.figures.items()
    }


def evaluate_model(
    source: Source,
    store: Store,
    benchmarks: BenchmarkSet,
    config: EvalsConfig,
    tracker: Tracker,
    corpus: Artifact | None = None,
) -> Evaluation:
    """Score a model. The actors load it while this process prepares the questions.

    Args:
        store: where its answers are kept; a repeated evaluation begins with them.

    Raises:
        UserError: the model cannot be loaded, or the questions do not suit the settings.
        InfraError: a worker died.
    """
    from evals.pool import scorers

    book = AnswerBook.of(store, source.content_sha256, answer_settings(config))
    base, _ = source.folders()
    began = time.monotonic()
    with offline(benchmarks.root is not None), scorers(source, config.workers, config.backend, book) as pool:
        from evals import heldout
        from evals.harness import ClusterLM

        lm = ClusterLM(base, pool, config.batch_size, tracker, share_prefixes=config.share_prefixes)
        evaluation = score_tasks(lm, benchmarks, config, tracker)
        measured = None
        if config.heldout and corpus is not None:
            measured = heldout.measure(
                lm, pool, store, corpus, config.heldout_tokens, config.seed, tracker, with_train=config.heldout_train
            )
        book.bind()
        return replace(evaluation, heldout=measured, usage=_account(lm, evaluation, config, began))


def score_tasks(
    lm: ClusterLM,
    benchmarks: BenchmarkSet,
    config: EvalsConfig,
    tracker: Tracker,
    reason: Callable[[], str] = lambda: "",
) -> Evaluation:
    """Ask a model everything, and score its answers as lm-eval does.

    Args:
        reason: why some questions were not answered, asked for where that is so.
    """
    from evals import partial, tasks

    began = time.monotonic()
    with tasks.quick_and_quiet():
        with tracker.step(f"reading questions ({benchmarks.label})"):
            loaded = tasks.load_tasks(benchmarks, config)
            samples = tasks.sampled_questions(loaded, config)
        lm.versions = {name: str(task.VERSION) for name, task in loaded["tasks"].items()}
        scores = dict(tasks.evaluator()(lm, loaded, limit=config.limit, samples=samples))
        counts: dict[str, tuple[int, int]] = {}
        if lm.unanswered:
            missing = {(task, number if samples is None else samples[task][number]) for task, number in lm.unanswered}
            counts = partial.count(missing, scores)
            scores = partial.restrict(scores, loaded, missing)
    if lm.truncated:
        tracker.note(
            f"{lm.truncated:,} of {lm.requests:,} requests are longer than the model's context of {lm.max_length:,}"
            " tokens and lost the beginning of their prompt"
        )
    sets = {name: measure_set(lm, name, each) for name, each in config.sets.items()}
    counts |= {name: (found.unanswered, found.asked) for name, found in sets.items() if found.unanswered}
    unanswered = partial.explain(counts, reason()) if counts else ""
    by_task = dict(lm.truncated_by_task)
    shared = lm.sharing.record() if lm.sharing is not None else None
    found = Evaluation(scores, None, lm.requests, lm.truncated, by_task, lm.max_length, unanswered, None, sets, shared)
    return replace(found, usage=_account(lm, found, config, began))


def _account(lm: ClusterLM, evaluation: Evaluation, config: EvalsConfig, began: float) -> dict[str, Any]:
    """What was spent since ``began``, by suite, held-out set and held-out text."""
    tasks = {suite: leaf_tasks(evaluation.scores, suite) for suite in config.suites}
    tasks |= {name: [name, f"texts of {name}"] for name in evaluation.sets}
    if lm.usage.requests[HELD_OUT] or lm.usage.requests[TRAINING]:
        tasks["heldout"] = [HELD_OUT, TRAINING]
    return lm.usage.account(tasks, time.monotonic() - began, config.workers, config.prices)


def _shots(scores: Mapping[str, Any], suite: str) -> int | None:
    """Worked examples that a suite's questions were asked with; None where none was answered."""
    return next((scores["n-shot"][task] for task in leaf_tasks(scores, suite) if task in scores["n-shot"]), None)


def answer_settings(config: EvalsConfig) -> dict[str, Any]:
    """Everything besides the model and the requests that can move an answer's last bits."""
    libraries = ("lm-eval", "torch", "transformers") + (("vllm",) if config.backend == "vllm" else ())
    return {
        "backend": config.backend,
        "batch_size": config.batch_size,
        "versions": {name: _version(name) for name in libraries},
        "processor": "gpu" if _gpus() else "cpu",
    }


def _version(distribution: str) -> str:
    for name in (distribution, f"{distribution}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _gpus() -> float:
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))


def describe(evaluation: Evaluation, benchmarks: BenchmarkSet, config: EvalsConfig) -> dict[str, Any]:
    """``results.json`` without the model: scores by task, held-out figures, the set's name and hash, the settings."""
    scores = evaluation.scores
    described: dict[str, Any] = {
        "benchmarks": benchmarks.label,
        "benchmarks_sha256": benchmarks.sha256,
        "tasks": suite_scores(scores, config.suites),
        "subtasks": subtask_scores(scores, config.suites),
        "higher_is_better": sides(
            scores.get("higher_is_better", {}), {suite: leaf_tasks(scores, suite) for suite in config.suites}
        ),
        "requests": evaluation.requests,
        "truncated_requests": evaluation.truncated,
        "truncated_by_task": evaluation.truncated_by_task,
        "context_tokens": evaluation.context_tokens,
        "settings": {
            "suites": list(config.suites),
            "num_fewshot": {suite: _shots(scores, suite) for suite in config.suites},
            "limit": config.limit,
            "sample": config.sample,
            "backend": config.backend,
            "batch_size": config.batch_size,
            "share_prefixes": config.share_prefixes,
            "seed": config.seed,
            "lm_eval": metadata.version("lm-eval"),
            "task_versions": {suite: scores["versions"].get(suite) for suite in config.suites},
        },
    }
    if config.tasks_folder:
        described["settings"]["own_task_files"] = True
    if evaluation.sharing is not None:
        described["shared_prefixes"] = dict(evaluation.sharing)
    if evaluation.unanswered:
        described["unanswered"] = evaluation.unanswered
    if evaluation.sets:
        described["sets"] = {name: found.record() for name, found in evaluation.sets.items()}
    if evaluation.heldout is not None:
        figures = {name.removeprefix("heldout."): value for name, value in evaluation.heldout.metrics().items()}
        sizes = {name: getattr(evaluation.heldout, name) for name in ("documents", "tokens", "text_bytes")}
        described["heldout"] = figures | sizes
        described["fit"] = judge_fit(evaluation.heldout).record()
    return described
