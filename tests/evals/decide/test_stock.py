"""lm-eval's own output, written by lm-eval, is read as an evaluation."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.store import Store
from evals.decide.comparison import compare
from evals.decide.page import comparison_page
from evals.decide.reading import load_measured

from ..conftest import write_benchmarks

SUITES = ("arc_easy", "truthfulqa_mc2", "mmlu")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models' folders, written by lm-eval's own tracker: a group of groups, a task, and one of probabilities."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.loggers import EvaluationTracker

    from evals import tasks
    from evals.benchmarks import open_benchmarks
    from evals.config import EvalsConfig

    class Dice(LM):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.chance = random.Random(seed)

        def loglikelihood(self, requests: Any, **_options: Any) -> list[tuple[float, bool]]:
            return [(-self.chance.random() * 3, False) for _ in requests]

        loglikelihood_rolling = generate_until = loglikelihood  # type: ignore[assignment]

    root = tmp_path_factory.mktemp("stock")
    config = EvalsConfig(benchmarks=str(write_benchmarks(root / "set", SUITES, rows=12)), suites=SUITES)
    with tasks.quick_and_quiet():
        loaded = tasks.load_tasks(open_benchmarks(config), config)
        for name, seed in (("one", 1), ("two", 2)):
            tracker = EvaluationTracker(output_path=str(root / name))
            tracker.general_config_tracker.model_name_sanitized = "dice"
            found = dict(evaluate(Dice(seed), loaded))
            samples = found.pop("samples")
            tracker.save_results_aggregated(results=found, samples=samples)
            for task, rows in samples.items():
                tracker.save_results_samples(task_name=task, samples=rows)
    return root


def test_a_question_may_hold_any_end_of_line(outputs: Path, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    shutil.copytree(outputs / "one", folder)
    path = next(folder.rglob("samples_arc_easy_*.jsonl"))
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    rows[0]["doc"]["question"] = "two\u2028lines\x85and a third"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    changed, before = load_measured(store, str(folder)), load_measured(store, str(outputs / "one"))
    assert changed.suites["arc_easy"].keys() == before.suites["arc_easy"].keys()


def test_every_score_is_the_mean_of_the_documents_that_were_read(outputs: Path, store: Store) -> None:
    one, two = (load_measured(store, str(outputs / name)) for name in ("one", "two"))
    assert set(one.suites) == set(SUITES)
    assert len({key[0] for key in one.suites["mmlu"]}) == 57
    found = compare(one, two)
    assert found.left_out == []
    assert {row.name: row.documents for row in found.rows}["arc_easy"] == 12
    for row in found.rows[:3]:
        assert row.a == pytest.approx(one.recorded(row.name, row.metric))
        assert row.b == pytest.approx(two.recorded(row.name, row.metric))
    answer = next(iter(one.suites["arc_easy"].values()))
    assert answer.right in {text.strip() for text, _ in answer.answers}
    assert "Suites" in comparison_page(found).render()


def test_without_samples_there_is_nothing_to_compare(outputs: Path, store: Store, tmp_path: Path) -> None:
    (results,) = (outputs / "one").rglob("results_*.json")
    (tmp_path / results.name).write_bytes(results.read_bytes())
    with pytest.raises(UserError, match="no samples beside them"):
        load_measured(store, str(tmp_path))
    (tmp_path / results.name).write_text(json.dumps({}))
    with pytest.raises(UserError, match="cannot be read"):
        load_measured(store, str(tmp_path))
