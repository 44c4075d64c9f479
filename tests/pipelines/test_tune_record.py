"""Records of trials: what is over stays over, what was cut off goes on, and results say all of it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.config import parse_document
from cluster.errors import InfraError, InternalError, UserError
from cluster.store import Store, open_store
from pipelines.recipe import load_recipe
from pipelines.tune.record import Mark, Records, Report, TrialRecord, best_trial
from pipelines.tune.results import check_best_path, publish_results, rows, summary
from pipelines.tune.search import Search, plan_search
from pipelines.tune.tidy import tidy

RECIPE = """\
# a comment
name: tiny
corpus: {sources: [{kind: jsonl, path: docs.jsonl}]}
pretrain: {steps: 50, workers: 1}
serving:
tune:
  metric: pretrain.validation.loss
  trials: 4
  space:
    pretrain.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
    pretrain.optimizer: {choice: [adamw, muon]}
"""


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return plan_search(parse_document(RECIPE, "r.yaml"))


def record(number: int, **more: Any) -> TrialRecord:
    return TrialRecord(number=number, values={"pretrain.learning_rate": 0.001 * (number + 1)}, **more)


def report(order: int, progress: float, loss: float) -> Report:
    return Report(order=order, step=int(progress), progress=progress, loss=loss)


def test_records_are_found_again(any_store: Store) -> None:
    records = Records(any_store, "tiny-0")
    records.put(record(0, state="finished", objective=2.5))
    records.put(record(11))
    records.change(11, reports=[report(4, 10, 3.5)], seconds=2.0)
    records.spend(12.5)
    again = Records(any_store, "tiny-0")
    assert again.trials == records.trials
    assert [each.number for each in again] == [0, 11]
    assert again.seconds == 12.5
    assert again.next_order() == 5
    assert Records(any_store, "tiny-1").trials == {}


def test_a_damaged_record_is_named(store: Store) -> None:
    Records(store, "x").put(record(3))
    store.write("tune/x/trials/0003.json", b'{"number": 3')
    with pytest.raises(UserError, match=r"0003.json: the record is damaged"):
        Records(store, "x")


def test_what_is_over_and_what_is_not() -> None:
    assert [record(0, state=state).is_over for state in ("running", "finished", "stopped", "failed")] == [
        False,
        True,
        True,
        True,
    ]
    assert not record(0, state="failed", retry=True).is_over, "the cluster failed, not the recipe"


def test_the_best_is_the_first_of_the_best() -> None:
    trials = [record(0, state="failed"), record(1, state="finished", objective=2.0)]
    trials += [record(2, state="finished", objective=1.0), record(3, state="finished", objective=1.0)]
    trials += [record(4, state="stopped", reports=[report(0, 10, 0.1)])]
    by_number = {each.number: each for each in reversed(trials)}
    lowest, highest = best_trial(by_number, "min"), best_trial(by_number, "max")
    assert lowest is not None
    assert highest is not None
    assert (lowest.number, highest.number) == (2, 1)
    assert best_trial({0: trials[0]}, "min") is None


def finished(search: Search, store: Store) -> Records:
    records = Records(store, search.id)
    states: list[dict[str, Any]] = [
        {"state": "finished", "objective": 3.0, "metrics": {"validation.loss": 3.0}, "reports": [report(0, 50, 3.2)]},
        {"state": "stopped", "reports": [report(1, 10, 5.0)], "reason": "was <behind>"},
        {"state": "finished", "objective": 2.0, "metrics": {"validation.loss": 2.0}},
        {"state": "failed", "reason": "pretrain: the loss became nan"},
    ]
    for trial, state in zip(search.trials, states, strict=True):
        records.put(TrialRecord(number=trial.number, values=dict(trial.proposal.values), **state))
    return records


def test_results_in_every_form(search: Search, store: Store, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    result = publish_results(search, finished(search, store), best)
    assert result.best is not None
    assert result.best.number == 2
    folder = f"tune/{search.id}"
    lines = list(csv.DictReader(io.StringIO(store.read(f"{folder}/results.csv").decode())))
    assert [line["state"] for line in lines] == ["finished", "stopped", "finished", "failed"]
    assert [line["objective"] for line in lines] == ["3.0", "", "2.0", ""]
    for line, trial in zip(lines, search.trials, strict=True):
        assert float(line["pretrain.learning_rate"]) == trial.proposal.values["pretrain.learning_rate"]
    jsonl = [json.loads(line) for line in store.read(f"{folder}/results.jsonl").decode().splitlines()]
    assert [each["values"] for each in jsonl] == [dict(trial.proposal.values) for trial in search.trials]
    page = store.read(f"{folder}/report.html").decode()
    assert page.count("<polyline") == 3 + 2, "parallel coordinates without the failed one, and two curves"
    assert "was &lt;behind&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "self-contained"
    text = summary(result)
    assert "best: trial 2, pretrain.validation.loss 2" in text
    assert [row["trial"] for row in rows(result.trials, "min")] == [2, 0, 1, 3]
    assert f"raymill run {best}" in text


def test_nothing_is_a_value_too(store: Store, tmp_path: Path, search: Search) -> None:
    search = plan_search(
        parse_document(RECIPE.replace("optimizer: {choice: [adamw, muon]}", "max_positions: {grid: [null, 1024]}"), "r")
    )
    result = publish_results(search, finished(search, store), tmp_path / "best.yaml")
    page = store.read(f"tune/{search.id}/report.html").decode()
    lines = re.findall(r'points="([^"]*)"><title>(trial \d[^<]*)', page)
    assert [len(points.split()) for points, _ in lines] == [3, 2, 3], "all that finished reach the last axis"
    assert sum("pretrain.max_positions null" in told for _, told in lines) == 2
    assert [row["pretrain.max_positions"] for row in rows(result.trials, "min")] == ["null", "null", 1024, 1024]
    table = csv.DictReader(io.StringIO(store.read(f"tune/{search.id}/results.csv").decode()))
    assert [line["pretrain.max_positions"] for line in table] == ["null", "1024", "null", "1024"]
    assert load_recipe(tmp_path / "best.yaml").pretrain.max_positions is None


def test_the_best_recipe_is_the_recipe_with_its_values(search: Search, store: Store, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    publish_results(search, finished(search, store), best)
    recipe, trial = load_recipe(best), search.trials[2].recipe
    assert trial is not None
    assert recipe == trial
    assert recipe.written == search.recipe.written - {"tune"} | {"store"}
    assert best.read_text(encoding="utf-8").startswith("# The best trial of `raymill tune`")
    assert store.read(f"tune/{search.id}/best.yaml").decode() == best.read_text(encoding="utf-8")


def test_only_a_file_of_a_search_is_written_over(search: Search, store: Store, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    check_best_path(best)
    publish_results(search, finished(search, store), best)
    check_best_path(best)
    best.write_text("name: mine\n", encoding="utf-8")
    for path in (best, tmp_path, tmp_path / "missing" / "best.yaml"):
        with pytest.raises(UserError):
            check_best_path(path)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2.5])
def test_a_loss_that_is_no_number_is_read_as_it_was_written(store: Store, loss: float) -> None:
    """It ranks last in a population; a record that is refused as damaged would end the search."""
    records = Records(store, "tiny-0")
    records.put(record(0, reports=[report(0, 10, loss)], marks=[Mark(step=10, loss=loss)]))
    found = Records(store, "tiny-0").trials[0]
    assert [found.reports[0].loss, found.marks[0].loss] == pytest.approx([loss, loss], nan_ok=True)


def test_no_trial_finished(search: Search, store: Store, tmp_path: Path) -> None:
    records = Records(store, search.id)
    values = dict(search.trials[0].proposal.values)
    records.put(TrialRecord(number=0, values=values, state="stopped", reports=[report(0, 10, 5.0)]))
    result = publish_results(search, records, tmp_path / "best.yaml")
    assert result.best is None
    assert not (tmp_path / "best.yaml").exists()
    assert "no trial finished" in summary(result)


@pytest.mark.parametrize("keep", [False, True])
def test_only_what_stopped_trials_left_is_removed(search: Search, store: Store, keep: bool) -> None:
    if keep:
        config = search.config.model_copy(update={"keep_stopped": True})
        search = Search(**{**vars(search), "config": config})
    records = finished(search, store)
    prefixes = []
    for number in range(4):
        identity = search.trained_artifact(number)
        assert identity is not None
        store.write(f"{identity}/20260101T000000-0000/resume/train/checkpoints/x", b"x")
        prefixes.append(f"{identity}/20260101T000000-0000/")
    identity = search.trained_artifact(1)
    assert identity is not None
    alive = Attempt(store, identity)
    with alive:
        store.write(alive.resume_key("x"), b"x")
        tidy(search, records)
        assert store.exists(alive.resume_key("x")), "somebody trains it on purpose"
    left = [any(store.files(prefix)) for prefix in prefixes]
    assert left == [True, keep, True, True]
    tidy(search, records, last=True)
    assert records.trials[1].tidied is not keep


def test_a_published_artifact_is_not_tidied(search: Search, store: Store) -> None:
    records = finished(search, store)
    place = search.trained_artifact(1)
    assert place is not None
    recipe = search.trials[1].recipe
    assert recipe is not None
    identity = Identity("Model", "pretrain", 1, {}, {})
    with Attempt(store, place) as attempt:
        attempt.write_text("model", "weights")
        made = Artifact(
            kind="Model",
            name="pretrain",
            fingerprint=place.rpartition("-")[2] + identity.fingerprint[12:],
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        attempt.publish(made)
    tidy(search, records, last=True)
    assert store.exists(f"{place}/{attempt.name}/model")


def test_reasons_are_one_line_and_say_whether_to_try_again() -> None:
    from ray.exceptions import RayActorError

    from pipelines.tune.trial import failed

    user = failed(UserError("out of memory: x", where="pretrain", next_step="lower it\nor so"))
    assert user == {"kind": "failed", "reason": "pretrain: out of memory: x (lower it or so)", "retry": False}
    assert failed(InfraError("a node went"))["retry"] is True
    assert failed(RayActorError())["retry"] is True
    assert failed(InternalError("not a number"))["retry"] is False
    assert failed(ValueError("a\nb")) == {"kind": "failed", "reason": "b", "retry": False}


def test_the_store_is_that_of_the_search(tmp_path: Path) -> None:
    assert Records(open_store(tmp_path / "s"), "x").folder == "tune/x"
