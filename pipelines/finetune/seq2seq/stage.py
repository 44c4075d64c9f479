"""The stage ``finetune`` on an encoder-decoder: pairs, training, model or adapter, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.artifact import Artifact
from cluster.report import Page
from cluster.stage import Outcome, StageContext
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import to_jsonl
from pipelines.finetune.likeness import metrics_of, show
from pipelines.finetune.load import load_examples
from pipelines.finetune.parts import keep_parts, tell_left_out

FORMS = ("pairs", "alpaca", "chat")
"""Rows that have a source and a target; of chats those with one question and its answer."""


def run(config: FinetuneConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Adapt ``model``; see :func:`pipelines.train.launch.run_training` for what is raised besides.

    Raises:
        UserError: the data cannot be read or gives too few examples.
    """
    from pipelines.finetune.seq2seq.task import Seq2SeqTask
    from pipelines.train.launch import run_training
    from pipelines.train.results import training_outcome, write_metrics, write_report

    base, corpus = inputs["model"], inputs.get("corpus")
    loaded = load_examples(config, corpus, context.store, FORMS)
    keys = keep_parts({name: to_jsonl(part) for name, part in loaded.parts().items()}, context)
    used = len(loaded.train) + len(loaded.validation)
    context.progress.note(f"{len(loaded.train):,} examples to train on, {len(loaded.validation):,} to validate on")
    if loaded.bad:
        context.progress.note(f"{len(loaded.bad):,} rows are no examples and are left out, the first: {loaded.bad[0]}")
    training = run_training(Seq2SeqTask(config, base, keys), context)
    details = training.summary["details"]
    outcome = training_outcome(training)
    outcome.metrics["validation.loss_before"] = training.curve("validation", "loss")[0][1]
    outcome.counts |= {
        "examples": used,
        "examples_too_long": details["too_long"],
        "examples_shortened": details["shortened"],
        "bad_rows": len(loaded.bad),
    }
    outcome.licences = dict(base.licences) | (dict(corpus.licences) if corpus else {})
    outcome.details = {"base": base.id, "task": config.task, "method": config.method, "bad_rows": loaded.bad[:20]}
    outcome.details |= details
    page = write_report(training, "From source to target", f"{config.title}, on {base.id}", {"examples": used})
    _describe(page, details)
    tell_left_out(page, details, loaded.bad, "examples")
    context.output.write_text("report.html", page.render())
    if "likeness" in details:
        measured = metrics_of(details["likeness"])
        outcome.metrics |= measured
        training.records.append({"kind": "result", "step": training.summary["chosen_step"]} | measured)
    write_metrics(training, context.output)
    return outcome


def _describe(page: Page, details: Mapping[str, Any]) -> None:
    if "likeness" in details:
        show(details["likeness"], page)
    if details["examples"]:
        page.heading("Held-out sources, before and after")
        page.table(details["examples"])
