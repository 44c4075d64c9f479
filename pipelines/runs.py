"""The record of a run: what it made, how long each stage took, what was measured, and a page that links the reports."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.artifact import Artifact
from cluster.progress import duration
from cluster.report import Page
from cluster.store import Store
from pipelines.headlines import headline
from pipelines.objective import TargetResult

RUNS = "runs"


@dataclass
class StageLine:
    """One line of a run's table."""

    stage: str
    state: str
    seconds: float
    result: str
    artifact_id: str = ""
    report: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class RunRecord:
    """One run of one recipe.

    Attributes:
        seconds: the whole run's.
        serving: what serving was to show -> whether it did; empty where nothing was served.
        index: the address of the page that links every report.
    """

    id: str
    recipe: str
    started: str
    seconds: float = 0.0
    stages: list[StageLine] = field(default_factory=list)
    targets: list[TargetResult] = field(default_factory=list)
    serving: dict[str, bool] = field(default_factory=dict)
    index: str = ""


def new_run(recipe_name: str) -> RunRecord:
    """A record with an id that sorts by time."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return RunRecord(f"{recipe_name}-{stamp}-{uuid.uuid4().hex[:4]}", recipe_name, stamp)


def stage_line(artifact: Artifact, cached: bool, seconds: float) -> StageLine:
    """The table's line for a stage that gave an artifact."""
    report = any(entry.path == "report.html" for entry in artifact.files)
    return StageLine(
        stage=artifact.name,
        state="cached" if cached else "made",
        seconds=round(seconds, 1),
        result=headline(artifact),
        artifact_id=artifact.id,
        report=artifact.key("report.html") if report else "",
        metrics=artifact.metrics,
        counts=artifact.counts,
    )


def publish_run(store: Store, record: RunRecord, extra: Sequence[tuple[str, str]] = ()) -> str:
    """Write the run's record and its page; the page's address.

    Args:
        extra: further pages as (file name, HTML), stored beside the index.
    """
    folder = f"{RUNS}/{record.id}"
    for name, html in extra:
        store.write(f"{folder}/{name}", html.encode("utf-8"))
    record.index = store.uri(f"{folder}/index.html")
    store.write(f"{folder}/index.html", _render(record).encode("utf-8"))
    store.write(f"{folder}/run.json", json.dumps(asdict(record), indent=1).encode("utf-8"))
    return record.index


def list_runs(store: Store) -> list[dict[str, Any]]:
    """The records of every run, oldest first."""
    found = []
    for name in store.folders(RUNS):
        try:
            found.append(json.loads(store.read(f"{RUNS}/{name}/run.json")))
        except FileNotFoundError:  # the run is being written, or was cut off before its record
            continue
    return sorted(found, key=lambda run: run["started"])


def _render(record: RunRecord) -> str:
    page = Page(f"Run of {record.recipe}", f"{record.id}, {duration(record.seconds)} in all")
    met = sum(result.met for result in record.targets)
    figures: dict[str, Any] = {"stages": len(record.stages), "whole run": duration(record.seconds)}
    if record.targets:
        figures["targets met"] = f"{met} of {len(record.targets)}"
    page.figures(figures)
    page.heading("Reports")
    page.links({line.stage: _from_index(line.report) for line in record.stages if line.report})
    page.heading("Stages")
    page.table(
        [
            {"stage": line.stage, "state": line.state, "time": duration(line.seconds), "result": line.result}
            | {"artifact": line.artifact_id}
            for line in record.stages
        ]
    )
    page.bar_chart("Seconds by stage", {line.stage: line.seconds for line in record.stages}, "s")
    if record.targets:
        page.heading("Objective")
        page.table(target_rows(record.targets))
    return page.render()


def _from_index(report: str) -> str:
    """A report's address as the run's page links it: beside the page, or elsewhere in the store."""
    return f"../../{report}" if "/" in report else report


def target_rows(results: Sequence[TargetResult]) -> list[dict[str, Any]]:
    """The objective's outcome as table rows."""
    return [
        {
            "target": result.label,
            "condition": result.condition,
            "measured": "not measured" if result.value is None else result.value,
            "outcome": "met" if result.met else "NOT met",
        }
        for result in results
    ]
