"""An artifact in a few words, for tables: what a person wants to know first about each kind."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.artifact import Artifact

SCORES = {
    "arc_easy": "acc",
    "arc_challenge": "acc_norm",
    "mmlu": "acc",
    "truthfulqa_mc1": "acc",
    "truthfulqa_mc2": "acc",
}
"""The suites in the order they are shown, each with the score that leaderboards quote."""


def headline(artifact: Artifact) -> str:
    """The artifact in a few words; kinds without words of their own show their counts."""
    counts, metrics = artifact.counts, artifact.metrics
    if artifact.kind == "Corpus" and "documents_in" in counts:
        return (
            f"{counts['documents']:,} of {counts['documents_in']:,} documents kept, {counts['bytes'] / 1e6:.1f} MB, "
            f"{counts['validation_documents']:,} for validation"
        )
    if artifact.kind == "Corpus" and "bytes" in counts:
        licences = "one licence" if len(artifact.licences) == 1 else f"{len(artifact.licences)} licences"
        return f"{counts['documents']:,} documents, {counts['bytes'] / 1e6:.1f} MB, {licences}"
    if artifact.kind == "Tokens" and "train_blocks" in counts:
        return f"{counts['tokens']:,} tokens, {counts['train_blocks']:,} blocks to train on"
    if artifact.kind in ("Model", "Adapter", "Seq2SeqAdapter") and "validation.perplexity" in metrics:
        size = f"{counts['trained_parameters']:,} parameters trained on {counts['tokens']:,} tokens"
        what = "validation perplexity" if artifact.kind == "Model" else "validation perplexity of the answers"
        return f"{size}, {what} {metrics['validation.perplexity']:,.1f}{_likeness(metrics)}"
    if artifact.kind in ("Classifier", "ClassifierAdapter") and "validation.accuracy" in metrics:
        return (
            f"{counts['labels']} labels, {counts['trained_parameters']:,} parameters trained on "
            f"{counts['training_sequences']:,} texts, held-out accuracy {metrics['validation.accuracy']:.2f} "
            f"(always the most frequent label {metrics['validation.majority_accuracy']:.2f})"
        )
    if "method" in artifact.details and artifact.kind in ("Model", "RewardModel"):
        return _aligned(artifact)
    if artifact.kind == "EvalReport":
        return _scores(artifact)
    if artifact.kind == "RolloutRecord" and "outcome" in artifact.details:
        told = artifact.details
        return f"{told['candidate']} against {told['baseline']}: {told['outcome'].replace('_', ' ')}; {told['why']}"
    if artifact.kind == "Decision" and "verdict" in artifact.details:
        told = artifact.details
        against = f" against {told['baseline']}" if told.get("baseline") else ""
        return f"{told['verdict'].replace('_', ' ')}: {told['candidate']}{against}"
    plain = {name: value for name, value in counts.items() if "." not in name}
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in plain.items())


def _likeness(metrics: Mapping[str, float]) -> str:
    """How like what was expected a model's held-out answers are, where that was measured."""
    if "validation.rougeL" not in metrics:
        return ""
    rouge, bleu = metrics["validation.rougeL"], metrics["validation.bleu"]
    before = f"before {metrics['validation.rougeL_before']:.2f} and {metrics['validation.bleu_before']:.1f}"
    return f", ROUGE-L {rouge:.2f} and BLEU {bleu:.1f} ({before})"


def _aligned(artifact: Artifact) -> str:
    """An alignment: what it was to change, before and after."""
    metrics = artifact.metrics
    what = f"{artifact.details['method']}, {artifact.counts['trained_parameters']:,} parameters"
    for name, label in (("accuracy", "held-out preference accuracy"), ("reward", "held-out reward")):
        if f"validation.{name}" in metrics:
            after, before = metrics[f"validation.{name}"], metrics[f"validation.{name}_before"]
            what += f", {label} {after:.2f} (before {before:.2f})"
    return what


def metric_label(artifact: Artifact, metric: str) -> str:
    """A metric's name, with the set of questions where it is a score on one: ``arc_easy.acc (sample)``."""
    benchmarks = artifact.details.get("benchmarks")
    on_questions = metric.partition(".")[0] in artifact.details.get("tasks", {})
    return f"{metric} ({benchmarks})" if benchmarks and on_questions else metric


def _scores(artifact: Artifact) -> str:
    metrics = artifact.metrics
    tasks = artifact.details.get("tasks", {})
    others = {suite: next(iter(scores)) for suite, scores in tasks.items() if suite not in SCORES and scores}
    named = [
        f"{suite} {metrics[f'{suite}.{score}']:.2f}"
        for suite, score in (SCORES | others).items()
        if f"{suite}.{score}" in metrics
    ]
    parts = [f"{artifact.details.get('benchmarks', '?')}: {', '.join(named)}"] if named else []
    if "heldout.perplexity" in metrics:
        held, unigram = metrics["heldout.perplexity"], metrics["heldout.unigram_perplexity"]
        parts.append(f"held-out perplexity {held:,.0f} (unigram {unigram:,.0f})")
    return "; ".join(parts)
