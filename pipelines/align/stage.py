"""The stage ``align``: records, training, one whole model, report."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cluster.artifact import Artifact
from cluster.stage import Outcome, StageContext
from pipelines.align.config import AlignConfig
from pipelines.align.generation import choose
from pipelines.align.sources import find_base, reward_artifact


def run(config: AlignConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Align ``model``; see :func:`pipelines.train.launch.run_training` for what is raised besides.

    Raises:
        UserError: the data or the reward cannot be used, or vLLM cannot write the answers that it is to write.
    """
    from pipelines.align.records import load_records
    from pipelines.align.report import align_outcome, align_page
    from pipelines.align.task import PairTask, RolloutTask
    from pipelines.finetune.examples.records import to_jsonl
    from pipelines.finetune.examples.template import load_template
    from pipelines.finetune.parts import tell_left_out
    from pipelines.train.launch import run_training
    from pipelines.train.results import write_metrics

    base = find_base(inputs, context.store)
    scorer = reward_artifact(str(config.reward), context.store) if config.on_policy else None
    choice = None
    if config.on_policy:
        choice = choose(config, json.loads(context.store.read(base.model.key("config.json"))))
        context.progress.note(f"{choice.writer} writes the answers: {choice.reason}")
    loaded = load_records(config)
    keys = {}
    for name, part in loaded.parts().items():
        keys[name] = context.output.resume_key(f"rows/{name}.jsonl")
        context.store.write(keys[name], to_jsonl(part).encode("utf-8"))
        context.output.write_text(f"rows/{name}.jsonl", to_jsonl(part))
    kind = "prompts" if config.on_policy else "pairs"
    context.progress.note(f"{len(loaded.train):,} {kind} to train on, {len(loaded.validation):,} to validate on")
    if loaded.bad:
        context.progress.note(f"{len(loaded.bad):,} rows are left out, the first: {loaded.bad[0]}")
    if loaded.alike:
        context.progress.note(f"{loaded.alike:,} prompts have no two answers with different ratings and give no pair")
    template = load_template(config.chat_template)
    task = (
        RolloutTask(config, base, keys, template, scorer=scorer, writer=choice.writer)
        if choice
        else PairTask(config, base, keys, template)
    )
    training = run_training(task, context)
    details = training.summary["details"]
    outcome = align_outcome(training)
    page = align_page(training, config, base.id, outcome)
    page.heading("Held-out examples")
    page.table(details["examples"])
    tell_left_out(page, details, loaded.bad, kind)
    context.output.write_text("report.html", page.render())
    write_metrics(training, context.output)
    outcome.counts |= {
        kind: len(loaded.train) + len(loaded.validation),
        "too_long": details["too_long"],
        "shortened": details["shortened"],
        "bad_rows": len(loaded.bad),
        "prompts_rated_alike": loaded.alike,
    }
    outcome.licences = dict(inputs["model"].licences)
    outcome.details = {"base": base.id, "method": config.method, **details}
    if choice:
        outcome.details["generation"] = choice.writer
    outcome.parents = {"reward": scorer} if scorer else {}
    return outcome
