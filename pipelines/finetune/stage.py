"""The stage ``finetune``: examples, training, adapter or model, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.artifact import Artifact
from cluster.report import Page
from cluster.stage import Outcome, StageContext
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Conversation, Text, to_jsonl
from pipelines.finetune.examples.template import load_template
from pipelines.finetune.likeness import metrics_of, show
from pipelines.finetune.load import Loaded, load_examples
from pipelines.finetune.parts import keep_parts, tell_left_out

SHOWN = 10


def run(config: FinetuneConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Adapt ``model``; see :func:`pipelines.train.launch.run_training` for what is raised besides.

    Raises:
        UserError: the data cannot be read or gives too few examples.
    """
    from pipelines.finetune.task import FinetuneTask
    from pipelines.train.launch import run_training
    from pipelines.train.results import training_outcome, write_metrics, write_report

    base, corpus = inputs["model"], inputs.get("corpus")
    loaded = load_examples(config, corpus, context.store)
    keys = keep_parts({name: to_jsonl(part) for name, part in loaded.parts().items()}, context)
    used = len(loaded.train) + len(loaded.validation)
    context.progress.note(f"{len(loaded.train):,} examples to train on, {len(loaded.validation):,} to validate on")
    if loaded.bad:
        context.progress.note(f"{len(loaded.bad):,} rows are no examples and are left out, the first: {loaded.bad[0]}")
    training = run_training(FinetuneTask(config, base, keys, load_template(config.chat_template)), context)
    details = training.summary["details"]
    page = write_report(training, "Fine-tuning", f"{config.title}, on {base.id}", {"examples": used})
    _describe(page, details, loaded)
    context.output.write_text("report.html", page.render())
    outcome = training_outcome(training)
    if "likeness" in details:
        measured = metrics_of(details["likeness"])
        outcome.metrics |= measured
        training.records.append({"kind": "result", "step": training.summary["chosen_step"]} | measured)
    write_metrics(training, context.output)
    outcome.counts |= {
        "examples": used,
        "examples_too_long": details["too_long"],
        "examples_shortened": details["shortened"],
        "bad_rows": len(loaded.bad),
    }
    outcome.licences = dict(base.licences) | (dict(corpus.licences) if corpus else {})
    outcome.details = {"base": base.id, "method": config.method, "bad_rows": loaded.bad[:20], **details}
    if config.method == "lora":
        outcome.details["rank"] = config.rank
    outcome.metrics["validation.loss_before"] = training.curve("validation", "loss")[0][1]
    if "unstopped" in details:
        context.progress.note(_unstopped(details["unstopped"]))
    if "quantised" in details:
        measured = {f"quantised.{name}": each for name, each in details["quantised"].items() if each is not None}
        outcome.metrics |= measured
    if "forgetting" in details:
        outcome.metrics |= {
            "forgetting.loss_before": details["forgetting"]["before"],
            "forgetting.loss": details["forgetting"]["after"],
        }
    return outcome


def _unstopped(token: str) -> str:
    return (
        f"answers end with {token}, and the base's generation_config.json does not stop there: asked beside its base, "
        "the adapter's answers go on behind it. Merge it (`raymill merge`), or add the token to the base's eos_token_id"
    )


def _describe(page: Page, details: Mapping[str, Any], loaded: Loaded) -> None:
    if "unstopped" in details:
        page.paragraph(_unstopped(details["unstopped"]))
    if "forgetting" in details:
        before, after = details["forgetting"]["before"], details["forgetting"]["after"]
        page.heading("What it could do before")
        page.table([{"loss before": before, "loss after": after, "forgotten (nats a token)": after - before}])
    if "likeness" in details:
        show(details["likeness"], page)
    if "quantised" in details:
        whole = details["quantised"]["loss_on_whole_base"]
        shown = "not measured: no room for it" if whole is None else whole
        page.heading("The adapter on the base in 4 bits, and as it is")
        page.table([{"loss in 4 bits, as trained": details["quantised"]["loss"], "loss on the base as it is": shown}])
    if details["examples"]:
        page.heading("Held-out questions, before and after")
        page.table(details["examples"])
    tell_left_out(page, details, loaded.bad, "examples")
    page.heading("Examples trained on")
    page.table([_row(example) for example in loaded.train[:SHOWN]])


def _row(example: Conversation | Text) -> dict[str, str]:
    if isinstance(example, Text):
        return {"text": example.text[:400], "place": example.where}
    asked = "\n".join(f"{each.role}: {each.content}" for each in example.messages[:-1])
    return {"asked": asked, "answer": example.messages[-1].content, "place": example.where}
