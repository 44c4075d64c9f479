"""The stage ``finetune``: pairs, training, adapter, report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from cluster.artifact import Artifact
from cluster.stage import Outcome, StageContext
from cluster.store import Store
from pipelines.finetune.config import FinetuneConfig, JsonlPairs
from pipelines.finetune.pairs import Pair, choose, docstring_pairs, read_pairs, split, to_jsonl

DOCSTRING = "docstring"
"""What the metadata of a document made of docstrings calls its kind, whatever the recipe calls its source."""


def run(config: FinetuneConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Train an adapter of ``model``; see :func:`pipelines.train.launch.run_training` for what is raised besides.

    Raises:
        UserError: the data cannot be read or gives too few pairs.
    """
    from pipelines.finetune.task import FinetuneTask
    from pipelines.train.launch import run_training
    from pipelines.train.results import training_outcome, write_metrics, write_report

    base, corpus = inputs["model"], inputs.get("corpus")
    pairs = list(_pairs(config, corpus, context.store))
    train, validation = split(pairs, config.validation_fraction)
    keys = {}
    for name, part in (("train", train), ("validation", validation)):
        keys[name] = context.output.resume_key(f"pairs/{name}.jsonl")
        context.store.write(keys[name], to_jsonl(part).encode("utf-8"))
        context.output.write_text(f"pairs/{name}.jsonl", to_jsonl(part))
    context.progress.note(f"{len(train):,} pairs to train on, {len(validation):,} to validate on")
    training = run_training(FinetuneTask(config, base, keys), context)
    details = training.summary["details"]
    page = write_report(
        training, "Fine-tuning", f"LoRA of rank {config.rank} on {base.id}", {"pairs": len(train) + len(validation)}
    )
    page.heading("Held-out questions, before and after")
    page.table(details["examples"])
    page.heading("Pairs trained on")
    page.table([{"question": pair.prompt, "answer": pair.completion} for pair in train[:10]])
    context.output.write_text("report.html", page.render())
    write_metrics(training, context.output)
    outcome = training_outcome(training)
    outcome.counts |= {"pairs": len(pairs), "pairs_too_long": details["too_long"]}
    outcome.licences = dict(base.licences) | (dict(corpus.licences) if corpus else {})
    outcome.details = {"base": base.id, "rank": config.rank, **details}
    outcome.metrics["validation.loss_before"] = training.curve("validation", "loss")[0][1]
    return outcome


def _pairs(config: FinetuneConfig, corpus: Artifact | None, store: Store) -> list[Pair]:
    if isinstance(config.data, JsonlPairs):
        return choose(read_pairs(config.data.path))
    texts = _training_texts(corpus, store) if corpus else iter(())
    return choose((pair for text in texts for pair in docstring_pairs(text)), config.data.max_pairs)


def _training_texts(corpus: Artifact, store: Store) -> Iterator[str]:
    """Docstrings of the training split; what curation held out stays unseen by every kind of training."""
    import pyarrow.parquet as pq

    for entry in sorted(corpus.files, key=lambda entry: entry.path):
        if entry.path.startswith("train/") and entry.path.endswith(".parquet"):
            filesystem, path = store.arrow(corpus.key(entry.path))
            with filesystem.open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(1024, columns=["text", "metadata"]):
                    for text, metadata in zip(batch["text"].to_pylist(), batch["metadata"].to_pylist(), strict=True):
                        if json.loads(metadata).get("kind") == DOCSTRING:
                            yield text
