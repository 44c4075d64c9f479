"""From a finished run to an artifact's numbers and a page with curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from statistics import fmean

from cluster.attempt import Attempt
from cluster.errors import InternalError
from cluster.report import Page
from cluster.stage import Outcome
from pipelines.train.launch import Training

LAST_SHARE = 20
"""The training loss given is the mean over the last 1/20 of the steps; single steps are noisy."""


def training_outcome(training: Training) -> Outcome:
    """Counts and metrics of a run.

    Raises:
        InternalError: a validation loss is not a finite number.
    """
    losses = [loss for _, loss in training.curve("train", "loss")]
    last = losses[-max(len(losses) // LAST_SHARE, 1) :]
    summary = training.summary
    validation = float(summary["validation_loss"])
    for step, loss in (*training.curve("validation", "loss"), (float(summary["steps"]), validation)):
        if not math.isfinite(loss):
            raise InternalError(
                f"the validation loss at step {step:,.0f} is {loss}, not a number",
                where=training.where,
                next_step="lower learning_rate, or look at the validation data",
            )
    return Outcome(
        counts={
            "parameters": summary["parameters"],
            "trained_parameters": summary["trained_parameters"],
            "steps": summary["steps"],
            "tokens": sum(int(tokens) for _, tokens in training.curve("train", "tokens")),
            "training_sequences": summary["training_sequences"],
            "validation_sequences": summary["validation_sequences"],
        },
        metrics={
            "train.loss": fmean(last),
            "validation.loss": validation,
            "validation.perplexity": math.exp(min(validation, 700.0)),
            "tokens_per_second": float(summary["tokens_per_second"]),
        },
    )


def write_metrics(training: Training, output: Attempt) -> None:
    """Every record as a line of ``metrics.jsonl``, and TensorBoard events where the recipe asks for them."""
    output.write_text("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in training.records))
    if training.tensorboard:
        from pipelines.train.tensorboard import write_events

        write_events(training.records, output.path("tensorboard/events").parent)


def write_report(training: Training, title: str, subtitle: str, more: Mapping[str, float]) -> Page:
    """A page with the run's figures and curves, to which the stage adds its own part."""
    outcome = training_outcome(training)
    page = Page(title, subtitle)
    page.figures(
        {
            "validation perplexity": outcome.metrics["validation.perplexity"],
            "validation loss": outcome.metrics["validation.loss"],
            "training loss": outcome.metrics["train.loss"],
            **more,
            "trained parameters": outcome.counts["trained_parameters"],
            "tokens trained on": outcome.counts["tokens"],
            "tokens a second": outcome.metrics["tokens_per_second"],
        }
    )
    tell_events(training, page)
    page.heading("Curves")
    curves = {"training": training.curve("train", "loss"), "validation": training.curve("validation", "loss")}
    page.line_chart("loss", curves, "step", "nats per token")
    page.line_chart("learning rate", {"learning rate": training.curve("train", "learning_rate")}, "step", "rate")
    page.line_chart("gradient norm", {"norm": training.curve("train", "gradient_norm")}, "step", "norm")
    page.line_chart("throughput", {"tokens/s": training.curve("train", "tokens_per_second")}, "step", "tokens/s")
    page.line_chart("share of the device's best (MFU)", {"MFU": training.curve("train", "mfu")}, "step", "share")
    page.line_chart("memory", {"peak": training.curve("train", "memory_bytes")}, "step", "bytes")
    page.heading("Start-up")
    page.table([{"part": part, "seconds": seconds} for part, seconds in training.summary["start_seconds"].items()])
    return page


def tell_events(training: Training, page: Page) -> None:
    """What happened on the way, and where it was interrupted, in words."""
    for record in training.records:
        if record["kind"] == "event":
            page.paragraph(f"Step {record['step']:,}: {record['text']}")
    starts = [record for record in training.records if record["kind"] == "start" and record["step"] > 0]
    if starts:
        steps = ", ".join(f"{record['step']:,}" for record in starts)
        page.paragraph(f"The run was interrupted and continued from its checkpoints at step {steps}.")
