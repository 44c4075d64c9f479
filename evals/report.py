"""The evaluation's page: scores with intervals against chance, held-out figures, questions with the model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.charts_scores import interval_bars
from cluster.report import Page
from evals.benchmarks import BenchmarkSet
from evals.contamination import columns, explain
from evals.decide.metrics import headline_metric
from evals.intervals import verdict
from evals.reproduce import stock_command

SHOWN_SAMPLES = 3


def build_report(
    title: str,
    benchmarks: BenchmarkSet,
    results: Mapping[str, Any],
    samples: Mapping[str, list[dict[str, Any]]],
    usage: Mapping[str, Any] | None = None,
) -> Page:
    """The page of one ``results.json``, some of its sample rows, and what it took (``usage.json``)."""
    page = Page(title, f"Questions: {benchmarks.label} ({benchmarks.description})")
    if benchmarks.label == "sample":
        page.paragraph("Sample scores say that the pipeline works. They cannot be compared with published results.")
    limit, sample = results["settings"]["limit"], results["settings"].get("sample")
    if sample:
        page.paragraph(
            f"A random sample of {sample:,} questions of each suite was asked, drawn with the seed below and, in a"
            " suite of several tasks, from each in proportion to its size. The intervals are those of the sample."
        )
    if limit:
        page.paragraph(f"Only the first {limit} questions of each task were asked: not a random sample of it.")
    if results.get("unanswered"):
        page.paragraph(f"PARTIAL: {results['unanswered']}. The scores are those of the questions that were answered.")
    answered_by = results.get("model", {}).get("answered_by", {})
    if len(answered_by) > 1:
        told = ", ".join(f"{variant} {count:,}" for variant, count in answered_by.items())
        page.paragraph(f"Several variants answered ({told} requests): these are the scores of the mixture.")
    page.heading("Scores")
    contamination = results.get("contamination")
    rows = list(score_rows(results["tasks"], benchmarks, contamination))
    page.table(rows)
    page.paragraph(
        "Intervals: Wilson's for right or wrong answers, 1.96 standard errors otherwise. Chance: the share of a"
        " question's choices that are right."
    )
    explain(page, contamination)
    page.chart(interval_bars("Scores with 95 % intervals; dotted: chance", _bars(results["tasks"], benchmarks)))
    if results["truncated_requests"]:
        page.paragraph(
            f"{results['truncated_requests']:,} of {results['requests']:,} requests were longer than the model's"
            f" context of {results['context_tokens']:,} tokens and lost the beginning of their prompt"
            f" ({', '.join(f'{task} {count:,}' for task, count in sorted(results['truncated_by_task'].items()))})."
        )
    _held_out(page, results.get("heldout"), results.get("fit"), results.get("sets", {}))
    for name, found in results.get("sets", {}).items():
        _own_set(page, name, found)
    for suite, tasks in results["subtasks"].items():
        page.heading(f"{benchmarks.name(suite)} by task")
        page.chart(interval_bars("Scores with 95 % intervals; dotted: chance", _by_score(tasks)))
        page.table(list(score_rows(tasks, benchmarks, contamination)))
    page.heading("Some questions")
    for suite, picked in samples.items():
        for row in picked[:SHOWN_SAMPLES]:
            if row.get("prompt"):
                _question(page, benchmarks.name(suite), row)
    page.heading("Settings")
    page.table([{"setting": name, "value": str(value)} for name, value in results["settings"].items()])
    page.sample("the stock harness's command for it", stock_command(results), limit=4000)
    if usage is not None:
        _usage(page, usage)
    return page


def _bars(tasks: Mapping[str, Any], benchmarks: BenchmarkSet) -> dict[str, dict[str, list[float | None]]]:
    """Every metric that is a share, for the chart."""
    return {
        f"{benchmarks.name(task)} {metric}": {"": _bar(figures)}
        for task, metrics in tasks.items()
        for metric, figures in metrics.items()
        if 0 <= figures["score"] <= 1
    }


def _by_score(tasks: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """Each task of a group by its usual metric, the best first."""
    usual = {task: metrics[headline_metric(task, metrics)] for task, metrics in tasks.items() if metrics}
    ordered = sorted(usual.items(), key=lambda item: -item[1]["score"])
    return {task: {"": _bar(figures)} for task, figures in ordered if 0 <= figures["score"] <= 1}


def _bar(figures: Mapping[str, Any]) -> list[float | None]:
    return [figures["score"], *(figures["interval_95"] or (None, None)), figures["chance"]]


def _usage(page: Page, usage: Mapping[str, Any]) -> None:
    page.heading("Time, tokens, cost")
    cost = {"cost": usage["cost"]} if any(usage["prices"].values()) else {}
    page.figures({"seconds": usage["seconds"], "workers": usage["workers"], **cost})
    page.table(
        [
            {"task": task, **{key.replace("_", " "): value for key, value in each.items() if key != "cost" or cost}}
            for task, each in usage["tasks"].items()
        ]
    )
    page.paragraph(
        "Seconds of a task: its share, by tokens, of the time that the model was waited for. Tokens of answers that an"
        " earlier evaluation had kept are counted as well." + ("" if cost else " evals.prices adds the cost.")
    )


def score_rows(
    tasks: Mapping[str, Any], benchmarks: BenchmarkSet, contamination: Mapping[str, Any] | None = None
) -> Iterable[dict[str, Any]]:
    """Table rows, one a task and metric, each naming the set; with what of it was in the training text, if known."""
    for task, metrics in tasks.items():
        for metric, figures in metrics.items():
            bounds = figures["interval_95"]
            yield {
                "task": benchmarks.name(task),
                "metric": metric,
                "score": figures["score"],
                "stderr": figures["stderr"],
                "95 % interval": f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "",
                "chance": figures["chance"],
                "questions": figures["n"],
                "against chance": verdict(tuple(bounds) if bounds else None, figures["chance"]),
                **(columns(contamination, task) if contamination else {}),
            }


def _held_out(
    page: Page, heldout: Mapping[str, Any] | None, fit: Mapping[str, Any] | None, sets: Mapping[str, Any]
) -> None:
    page.heading("Held-out text")
    if heldout is None:
        page.paragraph("Not measured.")
        return
    page.figures(
        {
            "perplexity a token": heldout["perplexity"],
            "unigram baseline": heldout["unigram_perplexity"],
            "ratio (below 1: better)": heldout["unigram_ratio"],
            "bits a byte": heldout["bits_per_byte"],
            "tokens": heldout["tokens"],
            "documents": heldout["documents"],
        }
    )
    if fit is not None:
        page.paragraph(fit["sentence"])
        if fit["train"] is not None:
            bits = {"training text": fit["train"], "the corpus's validation text": fit["heldout"]}
            bits |= {
                name: found["metrics"]["bits_per_byte"]["score"]
                for name, found in sets.items()
                if found["kind"] == "text"
            }
            bits["word frequencies alone (training text)"] = fit["unigram"]
            page.bar_chart("Bits a byte (less is better)", bits)


def _own_set(page: Page, name: str, found: Mapping[str, Any]) -> None:
    page.heading(f"{name} (held-out {found['kind']})")
    page.table(
        [
            {
                "metric": metric,
                "score": figures["score"],
                "95 % interval": "{:.3f} to {:.3f}".format(*figures["interval_95"]) if figures["interval_95"] else "",
                "documents": figures["n"],
            }
            for metric, figures in found["metrics"].items()
        ]
    )
    if found["labels"]:
        page.table(found["labels"])
    if found["note"]:
        page.paragraph(found["note"])


def _question(page: Page, name: str, row: Mapping[str, Any]) -> None:
    metrics = ", ".join(f"{metric} {value:g}" for metric, value in row["metrics"].items())
    if "answers" not in row:
        page.sample(f"{name}: {metrics}", f"{row['prompt'][-500:]}\n\n> {row['output']}", limit=2000)
        return
    best = max(answer["logprob"] for answer in row["answers"])
    lines = [row["prompt"][-500:], ""]
    for number, answer in enumerate(row["answers"]):
        marks = ("> " if answer["logprob"] == best else "  ") + ("* " if number == row["target"] else "  ")
        lines.append(f"{marks}{answer['logprob']:9.3f} {answer['text']}")
    page.sample(f"{name}: {metrics} (> the likeliest answer, * the right one)", "\n".join(lines), limit=2000)
