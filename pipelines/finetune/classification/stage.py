"""The stage ``finetune`` where it makes a classifier: texts, training, model or adapter, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.artifact import Artifact
from cluster.report import Page
from cluster.stage import Outcome, StageContext
from pipelines.finetune.classification.load import load_texts
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import to_jsonl
from pipelines.finetune.parts import keep_parts, tell_left_out
from pipelines.train.launch import Training


def run(config: FinetuneConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Adapt ``model``; see :func:`pipelines.train.launch.run_training` for what is raised besides.

    Raises:
        UserError: the data cannot be read, or does not say what to tell apart.
    """
    from pipelines.finetune.classification.task import ClassificationTask
    from pipelines.train.launch import run_training
    from pipelines.train.results import training_outcome, write_metrics

    base = inputs["model"]
    loaded = load_texts(config)
    keys = keep_parts({"train": to_jsonl(loaded.train), "validation": to_jsonl(loaded.validation)}, context)
    used = len(loaded.train) + len(loaded.validation)
    context.progress.note(
        f"{len(loaded.labels)} labels; {len(loaded.train):,} texts to train on, {len(loaded.validation):,} to validate "
        "on"
    )
    if loaded.bad:
        context.progress.note(f"{len(loaded.bad):,} rows are no examples and are left out, the first: {loaded.bad[0]}")
    training = run_training(ClassificationTask(config, base, keys, loaded.labels), context)
    details = training.summary["details"]
    outcome = training_outcome(training)
    del outcome.metrics["validation.perplexity"]  # the loss is over labels, not over tokens
    checks = [record for record in training.records if record["kind"] == "validation"]
    outcome.metrics |= details["metrics"]
    outcome.metrics |= {
        "validation.loss_before": checks[0]["loss"],
        "validation.accuracy_before": checks[0]["accuracy"],
    }
    outcome.counts |= {
        "examples": used,
        "labels": len(loaded.labels),
        "examples_too_long": details["too_long"],
        "examples_shortened": details["shortened"],
        "bad_rows": len(loaded.bad),
    }
    outcome.licences = dict(base.licences)
    outcome.details = {"base": base.id, "task": config.task, "method": config.method, "bad_rows": loaded.bad[:20]}
    outcome.details |= details
    page = report(training, config, base.id, outcome)
    tell_left_out(page, details, loaded.bad, "texts")
    context.output.write_text("report.html", page.render())
    final = {"kind": "result", "step": training.summary["chosen_step"], "confusion": details["confusion"]}
    training.records.append(final | {"labels": details["labels"]} | details["metrics"])
    write_metrics(training, context.output)
    return outcome


def report(training: Training, config: FinetuneConfig, base: str, outcome: Outcome) -> Page:
    """The page: figures, curves, each label's scores, what was mistaken for what."""
    from pipelines.train.results import tell_events

    metrics, details = outcome.metrics, outcome.details
    labels: list[str] = details["labels"]
    page = Page("Classification", f"{config.title} with a head for {len(labels)} labels, on {base}")
    page.figures(
        {
            "held-out accuracy": metrics["validation.accuracy"],
            "always the most frequent label": metrics["validation.majority_accuracy"],
            "F1, mean over labels": metrics["validation.f1_macro"],
            "precision, mean": metrics["validation.precision_macro"],
            "recall, mean": metrics["validation.recall_macro"],
            "validation loss": metrics["validation.loss"],
            "examples": outcome.counts["examples"],
            "trained parameters": outcome.counts["trained_parameters"],
        }
    )
    tell_events(training, page)
    page.heading("Each label, on every held-out text")
    weights = details["class_weights"] or [1.0] * len(labels)
    page.table(
        [
            {"label": label, **scores, "weight in the loss": weight}
            for label, scores, weight in zip(labels, details["by_label"], weights, strict=True)
        ]
    )
    page.heading("Confusion: the label in rows, what was given in columns")
    page.table(
        [
            {"label": label, **{f"→ {name}": count for name, count in zip(labels, row, strict=True)}}
            for label, row in zip(labels, details["confusion"], strict=True)
        ]
    )
    page.heading("Curves")
    for name, unit in (("loss", "nats a text"), ("accuracy", "share of texts")):
        curves = {"training": training.curve("train", name), "validation": training.curve("validation", name)}
        page.line_chart(name, curves, "step", unit)
    page.line_chart("learning rate", {"learning rate": training.curve("train", "learning_rate")}, "step", "rate")
    page.line_chart("gradient norm", {"norm": training.curve("train", "gradient_norm")}, "step", "norm")
    page.line_chart("throughput", {"tokens/s": training.curve("train", "tokens_per_second")}, "step", "tokens/s")
    page.heading("Wrong labels, the surest first")
    wrong: list[dict[str, Any]] = details["wrong"]
    page.table(wrong)
    return page
