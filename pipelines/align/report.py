"""An alignment's page and figures: what was learned, at what distance from the reference, and whether to believe it."""

from __future__ import annotations

from cluster.report import Page
from cluster.stage import Outcome
from pipelines.align.config import AlignConfig
from pipelines.train.launch import Training
from pipelines.train.results import tell_events, training_outcome

RESULTS = ("accuracy", "margin", "reward", "kl", "kl_per_token", "length", "cut", "distinct", "entropy")
"""Figures of the last validation that an artifact's record has, as far as the method measures them."""

CHARTS = (
    ("accuracy of preferences", ("accuracy",), "share of pairs"),
    ("margin of rewards", ("margin",), "reward"),
    ("rewards of both answers", ("chosen_reward", "rejected_reward"), "reward"),
    ("reward", ("reward",), "reward"),
    ("KL divergence from the reference", ("kl",), "nats an answer"),
    ("KL divergence from the reference, by token", ("kl_per_token",), "nats a token"),
    ("length of answers", ("length",), "tokens"),
    ("entropy", ("entropy",), "nats a token"),
    ("answers that differ, and that were cut", ("distinct", "cut"), "share"),
    ("value head's error", ("value_loss",), "half the square"),
    ("tokens beyond the clip", ("clipped",), "share"),
    ("vLLM's log-probabilities from training's", ("engine_gap",), "nats a token"),
)

METHODS = {"reward": "a reward model", "dpo": "DPO", "simpo": "SimPO", "grpo": "GRPO", "ppo": "PPO"}


def align_outcome(training: Training) -> Outcome:
    """Counts and metrics: the loss, and the figures of the chosen step's validation beside those before training."""
    outcome = training_outcome(training)
    del outcome.metrics["validation.perplexity"]  # the loss is over pairs or rewards, not over tokens
    checks = [record for record in training.records if record["kind"] == "validation"]
    chosen = next(record for record in reversed(checks) if record["step"] == training.summary["chosen_step"])
    outcome.metrics["validation.loss_before"] = checks[0]["loss"]
    for name in RESULTS:
        if name in chosen:
            outcome.metrics |= {f"validation.{name}": chosen[name], f"validation.{name}_before": checks[0][name]}
    return outcome


def align_page(training: Training, config: AlignConfig, base: str, outcome: Outcome) -> Page:
    """The report up to its curves; the stage adds examples."""
    metrics = outcome.metrics
    page = Page("Alignment", f"{METHODS[config.method]} on {base}")
    shown = ("accuracy", "margin", "reward", "kl", "kl_per_token", "length")
    figures = {f"held-out {name.replace('_', ' ')}": metrics.get(f"validation.{name}") for name in shown}
    before = {
        f"{label} before": metrics.get(f"validation.{name}_before") for label, name in zip(figures, shown, strict=True)
    }
    both = {
        key: value
        for label in figures
        for key, value in ((label, figures[label]), (f"{label} before", before[f"{label} before"]))
    }
    page.figures(
        {label: value for label, value in both.items() if value is not None}
        | {
            "steps": outcome.counts["steps"],
            "trained parameters": outcome.counts["trained_parameters"],
            "tokens trained on": outcome.counts["tokens"],
        }
    )
    tell_events(training, page)
    page.heading("Curves")
    curves = {"training": training.curve("train", "loss"), "validation": training.curve("validation", "loss")}
    if config.on_policy:  # training minimises a surrogate, validation measures what it stands for
        page.line_chart(
            "objective: KL divergence times beta, less the reward", {"validation": curves["validation"]}, "step", "loss"
        )
        page.line_chart("surrogate loss", {"training": curves["training"]}, "step", "loss")
    else:
        page.line_chart("loss", curves, "step", "nats a pair")
    for title, names, unit in CHARTS:
        series = {}
        for name in names:
            for kind in ("train", "validation"):
                points = curve(training, kind, name)
                label = {"train": "training"}.get(kind, kind)
                if points:
                    series[label if len(names) == 1 else f"{name.replace('_', ' ')}, {label}"] = points
        if series:
            page.line_chart(title, series, "step", unit)
    for title, name in (("learning rate", "learning_rate"), ("gradient norm", "gradient_norm")):
        page.line_chart(title, {title: training.curve("train", name)}, "step", title.split()[-1])
    page.line_chart("throughput", {"tokens/s": training.curve("train", "tokens_per_second")}, "step", "tokens/s")
    return page


def curve(training: Training, kind: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of the records that have the figure."""
    return [
        (float(each["step"]), float(each[name])) for each in training.records if each["kind"] == kind and name in each
    ]
