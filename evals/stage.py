"""Stage ``evals``: a model's scores on lm-eval's suites and its perplexity on held-out text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from cluster.artifact import Artifact
from cluster.progress import Tracker
from cluster.stage import Outcome, StageContext
from evals import contamination
from evals.benchmarks import BenchmarkSet, open_benchmarks
from evals.config import EvalsConfig
from evals.heldout import HeldOut
from evals.offline import offline
from evals.report import build_report
from evals.results import leaf_tasks, metric_values, sample_rows, subtask_scores, suite_scores
from evals.scorer import ModelSource


@dataclass(frozen=True)
class Evaluation:
    """One model's results.

    Attributes:
        scores: lm-eval's own results, with samples.
        heldout: held-out figures; None where there was no corpus or they were not asked for.
        requests: continuations scored, and how many of them lost the beginning of their prompt.
        context_tokens: the model's longest sequence.
    """

    scores: dict[str, Any]
    heldout: HeldOut | None
    requests: int
    truncated: int
    context_tokens: int


def run(config: EvalsConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Evaluate ``model`` (over ``base`` if it is an adapter), on ``corpus``'s validation split as well if given."""
    benchmarks = open_benchmarks(config)
    source = ModelSource(context.store, inputs["model"], inputs.get("base"))
    evaluation = evaluate_model(source, benchmarks, config, context.progress, inputs.get("corpus"))
    parents = [inputs.get("corpus"), source.model, inputs.get("base")]
    seen = contamination.find_contamination(context.store, parents, benchmarks)
    results = describe(evaluation, benchmarks, config) | {
        "model": {"id": source.model.id, "fingerprint": source.model.fingerprint, "kind": source.model.kind},
        "contamination": seen,
    }
    samples = {suite: list(sample_rows(evaluation.scores, suite)) for suite in config.suites}
    for suite, rows in samples.items():
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
        context.output.write_text(f"samples/{suite}.jsonl", "".join(lines))
    context.output.write_json("results.json", results)
    page = build_report(f"Evaluation of {source.model.name}", benchmarks, results, samples)
    context.output.write_text("report.html", page.render())
    return Outcome(
        counts={"questions": sum(map(len, samples.values())), "requests": evaluation.requests},
        metrics=metric_values(results["tasks"])
        | contamination.metrics(seen, config.suites)
        | (evaluation.heldout.metrics() if evaluation.heldout else {}),
        details={
            "benchmarks": benchmarks.label,
            "benchmarks_sha256": benchmarks.sha256,
            "tasks": results["tasks"],
            "limit": config.limit,
        },
    )


def evaluate_model(
    source: ModelSource,
    benchmarks: BenchmarkSet,
    config: EvalsConfig,
    tracker: Tracker,
    corpus: Artifact | None = None,
) -> Evaluation:
    """Score a model. The actors load it while this process prepares the questions.

    Raises:
        UserError: the model cannot be loaded, or the questions do not suit the settings.
        InfraError: a worker died.
    """
    from evals.pool import scorers

    with offline(benchmarks.root is not None), scorers(source, config.workers) as pool:
        from lm_eval.evaluator import evaluate

        from evals import heldout, tasks
        from evals.harness import ClusterLM

        with tasks.quick_and_quiet():
            with tracker.step(f"reading questions ({benchmarks.label})"):
                loaded = tasks.load_tasks(benchmarks, config)
            base, _ = source.folders()
            lm = ClusterLM(base, pool, config.batch_size, tracker)
            scores = evaluate(lm, loaded, limit=config.limit)
        requests, truncated = lm.requests, lm.truncated
        measured = None
        if config.heldout and corpus is not None:
            measured = heldout.measure(lm, pool, source.store, corpus, config.heldout_tokens, config.seed, tracker)
        return Evaluation(dict(scores), measured, requests, truncated, lm.max_length)


def describe(evaluation: Evaluation, benchmarks: BenchmarkSet, config: EvalsConfig) -> dict[str, Any]:
    """``results.json`` without the model: scores by task, held-out figures, the set's name and hash, the settings."""
    scores = evaluation.scores
    described: dict[str, Any] = {
        "benchmarks": benchmarks.label,
        "benchmarks_sha256": benchmarks.sha256,
        "tasks": suite_scores(scores, config.suites),
        "subtasks": subtask_scores(scores, config.suites),
        "requests": evaluation.requests,
        "truncated_requests": evaluation.truncated,
        "context_tokens": evaluation.context_tokens,
        "settings": {
            "suites": list(config.suites),
            "num_fewshot": {suite: scores["n-shot"][leaf_tasks(scores, suite)[0]] for suite in config.suites},
            "limit": config.limit,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "lm_eval": metadata.version("lm-eval"),
            "task_versions": {suite: scores["versions"].get(suite) for suite in config.suites},
        },
    }
    if evaluation.heldout is not None:
        figures = {name.removeprefix("heldout."): value for name, value in evaluation.heldout.metrics().items()}
        sizes = {name: getattr(evaluation.heldout, name) for name in ("documents", "tokens", "text_bytes")}
        described["heldout"] = figures | sizes
    return described
