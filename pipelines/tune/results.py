"""A search's outcome: the table, files for other programs, a page to look at, and the best trial's recipe."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.charts_parallel import Axis
from cluster.errors import UserError
from cluster.progress import duration, table
from cluster.report import Page
from pipelines.tune.record import Records, TrialRecord, best_trial
from pipelines.tune.search import Search
from pipelines.tune.trial_recipe import to_yaml, trial_document

OURS = "# The best trial of `raymill tune`"
CURVES = 8


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        recipe: the best trial's recipe as a file on this machine; empty where no trial finished.
        report: address of the page; beside it lie results.csv, results.jsonl and the records.
    """

    id: str
    objective: str
    mode: str
    seconds: float
    trials: list[TrialRecord]
    best: TrialRecord | None
    recipe: str
    report: str


def check_best_path(path: Path) -> None:
    """Refuse to write over a file that no search has written; asked before anything runs.

    Raises:
        UserError: there is one, or the folder is missing.
    """
    if not path.parent.is_dir():
        raise UserError("no such folder", where=str(path.parent), next_step="name another file with --best")
    if path.is_dir() or (path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(OURS)):
        raise UserError(
            "is there already, and is not the recipe of a search",
            where=str(path),
            next_step="name another file with --best",
        )


def publish_results(search: Search, records: Records, best_path: Path) -> SearchResult:
    """Write the tables, the page and the best recipe: into the search's folder, the recipe also to ``best_path``."""
    wanted = {trial.number for trial in search.trials}
    trials = [record for record in records if record.number in wanted]
    best = best_trial({record.number: record for record in trials}, search.objective.mode)
    store, folder = records.store, records.folder
    store.write(f"{folder}/results.jsonl", "".join(f"{json.dumps(_plain(each))}\n" for each in trials).encode())
    store.write(f"{folder}/results.csv", to_csv(trials).encode())
    written = ""
    if best is not None:
        text = best_recipe(search, best)
        store.write(f"{folder}/best.yaml", text.encode())
        best_path.write_text(text, encoding="utf-8")
        written = str(best_path)
    store.write(f"{folder}/report.html", render(search, trials, best, records.seconds).encode())
    report = store.uri(f"{folder}/report.html")
    objective = search.objective
    return SearchResult(search.id, objective.name, objective.mode, records.seconds, trials, best, written, report)


def best_recipe(search: Search, best: TrialRecord) -> str:
    """The best trial's recipe as text, ready to run."""
    document = trial_document(search.document, search.values_of(best))
    document.data["store"] = search.recipe.store
    heading = f"{OURS[2:]} {search.id}: trial {best.number}, {search.objective.name} {best.objective:.6g}"
    return to_yaml(document, heading)


def rows(trials: Sequence[TrialRecord], mode: str) -> list[dict[str, Any]]:
    """The trials as rows of a table, the best first, then those that did not finish."""
    sign = 1.0 if mode == "min" else -1.0
    order = {"finished": 0, "stopped": 1, "running": 2, "paused": 2, "failed": 3}

    def rank(trial: TrialRecord) -> tuple[float, ...]:
        value = sign * trial.objective if trial.objective is not None else -trial.progress
        return order[trial.state], value, trial.number

    return [
        {"trial": trial.number, "state": "unfinished" if trial.state in ("running", "paused") else trial.state}
        | {"objective": trial.objective}
        | {key: _named(value) for key, value in trial.current.items()}
        | {
            "trained %": round(trial.progress),
            "time": duration(trial.seconds),
            "remark": trial.reason or _origin(trial),
        }
        for trial in sorted(trials, key=rank)
    ]


def _origin(trial: TrialRecord) -> str:
    """Whose weights it took on the way."""
    return ", ".join(f"from trial {each.number} at {100 * each.at_fraction:.0f} %" for each in trial.takeovers)


def schedule(trial: TrialRecord) -> list[dict[str, Any]]:
    """The values of a member of a population over its training: one row from each change on."""
    found: list[dict[str, Any]] = [{"from %": 0.0, **trial.values}]
    for number, change in enumerate(trial.changes, start=1):
        part = trial.model_copy(update={"changes": trial.changes[:number]})
        found.append({"from %": 100 * change["at_fraction"], **part.current})
    return found


def to_csv(trials: Sequence[TrialRecord]) -> str:
    """One line a trial, in the order of numbers; every metric of finished trials in a column of its own."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    metrics = sorted({name for trial in trials for name in trial.metrics})
    changing = ["changes"] if any(trial.changes for trial in trials) else []
    names = ["trial", "state", "objective", *keys, *changing, *metrics, "progress_percent", "seconds", "reason"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for trial in trials:
        values = [_cell(_named(trial.values[key]) if key in trial.values else None) for key in keys]
        values += [json.dumps(trial.changes) for _ in changing]
        measured = [_cell(trial.metrics.get(name)) for name in metrics]
        rest = [round(trial.progress, 1), trial.seconds, trial.reason]
        writer.writerow([trial.number, trial.state, _cell(trial.objective), *values, *measured, *rest])
    return out.getvalue()


def _named(value: Any) -> Any:
    """A value that was tried; nothing is one too, as recipes write it."""
    return "null" if value is None else value


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, (str, int, float)) else json.dumps(value)


def _plain(trial: TrialRecord) -> dict[str, Any]:
    return trial.model_dump(mode="json", exclude={"retry", "tidied"})


def render(search: Search, trials: Sequence[TrialRecord], best: TrialRecord | None, seconds: float) -> str:
    """The page of a search."""
    objective = search.objective
    page = Page(f"Search for {search.recipe.name}", f"the {objective.mode}imum of {objective.name}; {search.id}")
    count = {state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed")}
    page.figures(
        {f"best {objective.name}": best.objective if best else "none finished"}
        | ({"of trial": best.number} if best else {})
        | count
        | {"in all": duration(seconds)}
    )
    page.heading("What was tried")
    shown = [trial for trial in trials if trial.state != "failed"]
    axes = [
        Axis(key, [_named(trial.current[key]) for trial in shown], logarithmic=space.way == "loguniform")
        for key, space in search.config.space.items()
    ]
    axes.append(Axis(objective.name, [trial.objective for trial in shown]))
    place = next((number for number, trial in enumerate(shown) if best and trial.number == best.number), None)
    page.parallel_coordinates("a line a trial", axes, [f"trial {trial.number}" for trial in shown], place)
    page.paragraph("The thick line is the best trial. Lines that end before the last axis did not finish.")
    curves = _curves(trials, best)
    if curves:
        page.line_chart("validation loss of each trial", curves, "% of the training", "nats per token")
    if search.config.scheduler == "pbt":
        page.paragraph("Values are those at the end; a curve begins with what the trial continued.")
    if best is not None and best.changes:
        page.heading("Schedule of the best trial")
        page.table(schedule(best))
    page.heading("Trials")
    page.table(rows(trials, objective.mode))
    return page.render()


def _curves(trials: Sequence[TrialRecord], best: TrialRecord | None) -> dict[str, list[tuple[float, float]]]:
    """Validation losses of the best trial and the first others, as many as can be told apart."""
    chosen = sorted(trials, key=lambda trial: (best is None or trial.number != best.number, trial.number))
    named = {
        f"{trial.number}": [(report.progress, report.loss) for report in trial.reports]
        for trial in chosen
        if trial.reports
    }
    return dict(list(named.items())[:CURVES])


def summary(result: SearchResult) -> str:
    """The outcome as text for a console."""
    parts = [table(rows(result.trials, result.mode)), ""]
    if result.best is None:
        parts.append("no trial finished: raise tune.max_seconds and repeat the command, or let asha stop fewer")
    else:
        parts.append(f"best: trial {result.best.number}, {result.objective} {result.best.objective:.6g}")
        if result.best.changes:
            parts += ["its values on the way:", table(schedule(result.best))]
        parts.append(f"its recipe: {result.recipe}; next: `raymill run {result.recipe}`")
    parts.append(f"{duration(result.seconds)} in all; everything about it: {result.report}")
    return "\n".join(parts)
