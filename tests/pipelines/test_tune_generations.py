"""A population that really trains, without Ray: it pauses, takes over, goes on; a recipe alone gives the same model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import stage as stage_module
from cluster.artifact import Artifact, Identity, load_artifact
from cluster.config import parse_document
from cluster.progress import Progress
from cluster.stage import Outcome, Stage, StageContext, execute, identify
from cluster.store import Store, open_store
from pipelines.graph import Node
from pipelines.pretrain import resolve
from pipelines.recipe import Recipe
from pipelines.train import launch
from pipelines.train.results import training_outcome, write_metrics
from pipelines.train.worker import train_job
from pipelines.tune import search as search_module
from pipelines.tune import trial
from pipelines.tune.follow import Follower
from pipelines.tune.generations import train_population
from pipelines.tune.record import Records, TrialRecord
from pipelines.tune.search import Search, plan_search
from pipelines.tune.trial import Stages, Work
from tests.pipelines.test_train_loop import FixedSamples, llama

pytestmark = pytest.mark.slow

RECIPE = """\
name: tiny
corpus: {sources: [{kind: jsonl, path: docs.jsonl}]}
pretrain:
  steps: 24
  workers: 1
  batch_sequences: 4
  validation_sequences: 8
  checkpoint_every_steps: 5
  validation_every_steps: 5
tune:
  metric: pretrain.validation.loss
  scheduler: pbt
  trials: 5
  interval_fraction: 0.3
  resample_probability: 0
  space:
    pretrain.learning_rate: {loguniform: [1.0e-5, 1.0e-2]}
    pretrain.weight_decay: {uniform: [0, 1]}
"""
STAGE = Stage("pretrain", "Model", 1, "entries:run", resolve="entries:resolve")


class Task:
    """Training of a tiny model on random sequences."""

    where = "pretrain"

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, store: Any) -> None:
        pass

    def model(self) -> torch.nn.Module:
        return llama()

    def samples(self) -> tuple[FixedSamples, FixedSamples]:
        return FixedSamples(40, 12, 1), FixedSamples(9, 12, 2)

    def finish(self, model: torch.nn.Module, folder: Path, probe: Any) -> dict[str, Any]:
        parts = [parameter.detach().numpy().tobytes() for parameter in model.parameters()]
        (folder / "weights").write_bytes(b"".join(parts))
        return {}


def run(config: Any, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    training = launch.run_training(Task(config), context)
    write_metrics(training, context.output)
    return training_outcome(training)


class Fit(threading.Thread):
    """In place of Ray Train: the worker's work in this process."""

    def __init__(self, job: Any) -> None:
        super().__init__(daemon=True)
        self.job, self.summary, self.error = job, None, None

    def run(self) -> None:
        try:
            self.summary: Any = train_job(self.job, 0, 1, torch.device("cpu"), time.monotonic())
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            self.error: Any = error


def nodes(recipe: Recipe) -> list[Node]:
    return [Node("pretrain", "pretrain", STAGE, recipe.pretrain, {})]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    planned = plan_search(parse_document(RECIPE, "r.yaml"))
    monkeypatch.setattr(stage_module, "load_entry", {"entries:run": run, "entries:resolve": resolve}.__getitem__)
    monkeypatch.setattr(launch, "_Fit", Fit)
    monkeypatch.setattr(launch, "POLL_S", 0.02)
    monkeypatch.setattr(launch, "require_resources", lambda *arguments, **more: None)
    monkeypatch.setattr(search_module, "build_graph", nodes)
    monkeypatch.setattr(trial, "build_graph", nodes)
    return planned


class Killed(Exception):
    """The driver is gone."""


def train(search: Search, store: Store, tmp_path: Path, kill_after: int | None = None) -> tuple[Records, int]:
    """A search as the driver does it, one member at a time; and how many stages it ran."""
    records = Records(store, search.id)
    for each in search.trials:
        if each.number not in records.trials:
            records.put(TrialRecord(number=each.number, values=dict(each.proposal.values)))
    follower = Follower(records, search.objective, lambda: None, lambda text: None)
    (tmp_path / "locks").mkdir(exist_ok=True)
    done = 0

    def fit(numbers: Sequence[int], until: float | None) -> None:
        nonlocal done
        for number in numbers:
            if done == kill_after:
                raise Killed
            record = records.trials[number]
            after = max((each.step for each in record.reports), default=0)
            recipe = search.recipe_of(record)
            work = Work(recipe, store, "pretrain", "pretrain", str(tmp_path / "locks"), str(tmp_path), after, until)
            stages = Stages(work)
            outcome = stages.run()
            for news in stages.news(0):
                follower._take(number, "report", news)
            follower._take(number, outcome["kind"], outcome)
            done += 1

    train_population(search, records, fit, lambda text: None)
    return records, done


def plain(records: Records) -> list[dict[str, Any]]:
    found = []
    for each in records:
        values = each.model_dump(exclude={"seconds", "metrics"})
        found.append(values | {"reports": [(report.step, report.loss) for report in each.reports]})
    return found


def weights(store: Store, record: TrialRecord) -> bytes:
    artifact = load_artifact(store, record.artifacts["pretrain"])
    assert artifact is not None
    return store.read(artifact.key("weights"))


def test_a_member_s_recipe_alone_gives_its_model(search: Search, tmp_path: Path) -> None:
    store, other = open_store(tmp_path / "search"), open_store(tmp_path / "alone")
    records, _ = train(search, store, tmp_path)
    assert [each.state for each in records] == ["finished"] * 5
    changed = [each for each in records if each.changes]
    assert changed, "somebody gave up"
    assert max(len(each.changes) for each in changed) > 1, "more than once"
    for record in changed:
        recipe = search.recipe_of(record)
        identity: Identity = identify(STAGE, recipe.pretrain, {})
        assert identity.id == record.artifacts["pretrain"]
        with Progress().track("pretrain") as tracker:
            result = execute(STAGE, identity, recipe.pretrain, {}, other, tracker)
        assert other.read(result.artifact.key("weights")) == weights(store, record)
        lines = store.read(f"{identity.id}/{load_artifact(store, identity.id).attempt}/metrics.jsonl").decode()  # type: ignore[union-attr]
        told = [each["text"] for each in map(json.loads, lines.splitlines()) if each["kind"] == "event"]
        assert len(told) == len(record.changes), "each change once, also those of the members before"
        steps = [each["step"] for each in map(json.loads, lines.splitlines()) if each["kind"] == "train"]
        assert steps == list(range(1, 25))
    assert len({weights(store, each) for each in records}) == 5
    kept = {each.artifacts["pretrain"] for each in records}
    assert {"/".join(item.key.split("/")[:2]) for item in store.files("Model/")} == kept, "what was given up is gone"
    for artifact in kept:
        published = load_artifact(store, artifact)
        assert published is not None
        assert store.folders(artifact) == [published.attempt]


def test_who_gives_up_ends_better_than_with_its_own_values(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the same first values, trained to the end without changing; on data that can be learned."""
    monkeypatch.setattr(Task, "samples", lambda task: (FixedSamples(8, 12, 1), FixedSamples(8, 12, 1)))
    records, _ = train(search, open_store(tmp_path / "search"), tmp_path)
    other = open_store(tmp_path / "alone")
    fixed = {}
    for each in search.trials:
        assert each.recipe is not None
        with Progress().track("pretrain") as tracker:
            identity = identify(STAGE, each.recipe.pretrain, {})
            result = execute(STAGE, identity, each.recipe.pretrain, {}, other, tracker)
        fixed[each.number] = result.artifact.metrics["validation.loss"]
    gave_up = [each for each in records if each.takeovers]
    assert gave_up
    for each in records:
        assert each.objective is not None
        if each.takeovers:
            assert each.objective < fixed[each.number]
        else:
            assert each.objective == fixed[each.number], "nothing was changed"


@pytest.mark.parametrize("kill_after", [2, 5, 8, 17])
def test_a_killed_search_comes_to_the_same(search: Search, tmp_path: Path, kill_after: int) -> None:
    whole, done = train(search, open_store(tmp_path / "whole"), tmp_path)
    store = open_store(tmp_path / "killed")
    with pytest.raises(Killed):
        train(search, store, tmp_path, kill_after)
    records, rest = train(search, store, tmp_path)
    assert plain(records) == plain(whole)
    assert kill_after + rest == done, "nothing was trained twice"
    for one, two in zip(whole, records, strict=True):
        assert weights(whole.store, one) == weights(store, two)


def test_a_member_whose_model_is_published_already_trains_all_the_same(search: Search, tmp_path: Path) -> None:
    """Others may have to continue from the middle of it, of which nothing is left."""
    whole, _ = train(search, open_store(tmp_path / "whole"), tmp_path)
    store = open_store(tmp_path / "again")
    for each in search.trials:
        assert each.recipe is not None
        identity = identify(STAGE, each.recipe.pretrain, {})
        with Progress().track("pretrain") as tracker:
            execute(STAGE, identity, each.recipe.pretrain, {}, store, tracker)
    records, _ = train(search, store, tmp_path)
    assert plain(records) == plain(whole)
    for record in records:
        artifact = load_artifact(store, record.artifacts["pretrain"])
        assert artifact is not None
        assert store.folders(artifact.id) == [artifact.attempt], "what it left on the way is gone"
