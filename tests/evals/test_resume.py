"""kill -9 in the middle of an evaluation, and its repetition with another number of workers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.progress import Progress, Tracker
from cluster.store import open_store
from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.harness import ClusterLM
from evals.results import sample_rows, suite_scores
from evals.scorer import Group, Scorer
from evals.sources import FolderSource
from evals.stage import score_tasks

from .conftest import write_benchmarks

HERE = Path(__file__).parent
ROWS = 80


def start(
    log: Path, seconds: float, model: Path, questions: Path, store: Path, workers: int, ray: bool
) -> subprocess.Popen[str]:
    words = [sys.executable, str(HERE / "slow_scorer.py"), str(log), str(seconds), *([] if ray else ["--without-ray"])]
    words += ["eval", str(model), "--json"]
    words += ["--suite", "arc_easy", "--benchmarks", str(questions), "--store", str(store), "--workers", str(workers)]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def kept(store: Path) -> set[str]:
    parts = [json.loads(path.read_bytes()) for path in (store / "answers").rglob("*.json")]
    return {key for part in parts for key in part}


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if true():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1][-3000:])
        time.sleep(0.05)
    raise AssertionError("it did not get so far")


class Direct:
    """The pool without Ray, for what the result has to be."""

    def __init__(self, model: Path) -> None:
        self._scorer = Scorer(FolderSource(model))
        self._scorer.load()

    def score(self, batches: list[list[Group]], on_done: Callable[[int], None]) -> Any:
        return self._scorer.score(batches)


def uninterrupted(model: Path, questions: Path) -> tuple[Any, list[Any]]:
    """Scores and sample rows of an evaluation in this process."""
    config = EvalsConfig(suites=("arc_easy",), benchmarks=str(questions))
    tracker = Tracker(Progress(io.StringIO()), "test")
    lm = ClusterLM(model, Direct(model), config.batch_size, tracker)  # type: ignore[arg-type]
    scores = score_tasks(lm, open_benchmarks(config), config, tracker).scores
    return suite_scores(scores, config.suites), list(sample_rows(scores, "arc_easy"))


@pytest.mark.parametrize(
    "ray", [False, pytest.param(True, marks=[pytest.mark.ray, pytest.mark.slow])], ids=["own process", "two actors"]
)
def test_after_kill_9_at_most_one_chunk_a_worker_is_asked_again_and_the_result_is_the_same(
    ray: bool, tiny_model: Path, tmp_path: Path
) -> None:
    questions = write_benchmarks(tmp_path / "questions", ("arc_easy",), rows=ROWS)
    store, logs = tmp_path / "store", (tmp_path / "first.log", tmp_path / "second.log")
    first = start(logs[0], 0.3, tiny_model, questions, store, 2, ray)
    wait_for(lambda: len(calls(logs[0])) >= 7, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(1.5)  # its workers have ended, or end now that nobody owns them
    before, asked_first = kept(store), calls(logs[0])
    workers = {call["worker"] for call in asked_first}
    assert len(workers) == (2 if ray else 1)
    assert before

    second = start(logs[1], 0.0, tiny_model, questions, store, 1, ray)
    output, errors = second.communicate(timeout=200)
    assert second.returncode == 0, errors[-3000:]
    asked_second = {key for call in calls(logs[1]) for key in call["keys"]}
    assert not asked_second & before
    for worker in workers:
        again = [call for call in asked_first if call["worker"] == worker and set(call["keys"]) & asked_second]
        assert len(again) <= 1
    everything = asked_second | before
    assert {key for call in asked_first for key in call["keys"]} <= everything
    assert len(asked_second) < len(everything)

    expected, rows = uninterrupted(tiny_model, questions)
    assert json.loads(output)["tasks"] == json.loads(json.dumps(expected))
    found = open_store(store)
    (samples,) = (file.key for file in found.files("EvalReport/") if file.key.endswith("samples/arc_easy.jsonl"))
    assert [json.loads(line) for line in found.read(samples).splitlines()] == json.loads(json.dumps(rows))
