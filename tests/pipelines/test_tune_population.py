"""Population-based training without Ray: who continues from whom, with which values; being cut off changes nothing."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import parse_document
from cluster.errors import InfraError, UserError
from cluster.store import Store
from pipelines.tune import generations
from pipelines.tune.config import DEFAULT_TRIALS, SpaceConfig, TuneConfig
from pipelines.tune.generations import train_population
from pipelines.tune.population import change_to, explore, explored, parents, points
from pipelines.tune.record import Mark, Records, Report, TrialRecord
from pipelines.tune.results import publish_results, summary
from pipelines.tune.search import Search, plan_search

RECIPE = """\
name: tiny
corpus: {sources: [{kind: jsonl, path: docs.jsonl}]}
pretrain:
  steps: 40
  workers: 1
finetune:
tune:
  metric: METRIC
  scheduler: pbt
  trials: 8
  interval_fraction: 0.25
  space:
    SPACE
"""
RATE = "pretrain.learning_rate: {loguniform: [1.0e-4, 1.0e-1]}"
DECAY = "pretrain.weight_decay: {choice: [0, 0.1, 0.3]}"


@pytest.fixture(autouse=True)
def documents(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def plan(space: str = f"{RATE}\n    {DECAY}", metric: str = "pretrain.validation.loss", **replaced: str) -> Search:
    text = RECIPE.replace("SPACE", space).replace("METRIC", metric)
    for old, new in replaced.items():
        assert f"{old}: " in text
        line = next(each for each in text.splitlines() if each.strip().startswith(f"{old}: "))
        text = text.replace(line, f"{line[: line.index(old)]}{new}")
    return plan_search(parse_document(text, "r.yaml"))


def tune_config(**more: Any) -> TuneConfig:
    return TuneConfig(metric="x", space={"pretrain.z_loss": SpaceConfig(uniform=(0, 1))}, scheduler="pbt", **more)


def test_points_of_comparison() -> None:
    assert points(0.25) == [0.25, 0.5, 0.75]
    assert points(0.2) == [0.2, 0.4, 0.6, 0.8]
    assert points(0.1)[2] == 0.3, "as a person writes it"
    assert points(0.3) == [0.3, 0.6, 0.9]
    assert points(0.5) == [0.5]


@settings(max_examples=50, deadline=None)
@given(
    losses=st.dictionaries(st.integers(0, 30), st.floats(0, 10) | st.just(math.nan), max_size=20),
    quantile=st.floats(0.05, 0.5),
    seed=st.integers(0, 5),
)
def test_the_last_give_up_for_the_first(losses: dict[int, float], quantile: float, seed: int) -> None:
    chosen = parents(tune_config(quantile_fraction=quantile, seed=seed), 1, losses)
    # Ray Tune's PopulationBasedTraining._quantiles: ceil, and at most half.
    count = math.ceil(len(losses) * quantile)
    assert len(chosen) == (len(losses) // 2 if count > len(losses) / 2 else count)
    worth = {number: math.inf if math.isnan(loss) else loss for number, loss in losses.items()}
    first, last = set(chosen.values()), set(chosen)
    assert not first & last
    for number in losses:
        assert number in last or all(worth[number] <= worth[each] for each in last)
    for number in first:
        assert sum(worth[each] < worth[number] for each in losses) < max(len(chosen), 1)
    assert chosen == parents(tune_config(quantile_fraction=quantile, seed=seed), 1, dict(reversed(losses.items())))


def test_parents_are_drawn_evenly_and_by_the_seed() -> None:
    losses = {number: float(number) for number in range(20)}
    drawn = [parents(tune_config(seed=seed, quantile_fraction=0.2), 0, losses) for seed in range(200)]
    count = Counter(parent for each in drawn for parent in each.values())
    assert set(count) == {0, 1, 2, 3}
    assert min(count.values()) > 150, "of 200 expected"


@settings(max_examples=50, deadline=None)
@given(way=st.sampled_from(["uniform", "loguniform"]), share=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_a_range_is_left_by_a_fifth_at_most_and_never_over_its_bounds(way: str, share: float, seed: int) -> None:
    space = SpaceConfig(**{way: (0.5, 2.0)})
    value = 0.5 + 1.5 * share
    found = explore(space, value, tune_config(resample_probability=0), Random(seed))
    wanted = [min(max(value * factor, 0.5), 2.0) for factor in (0.8, 1.2)]
    assert any(found == pytest.approx(each, rel=1e-3) for each in wanted)
    assert 0.5 <= found <= 2.0


def test_a_choice_moves_to_its_neighbour() -> None:
    space, config = SpaceConfig(choice=[5, 1, 7, 3]), tune_config(resample_probability=0)
    moves = {(value, explore(space, value, config, Random(n))) for value in (5, 1, 7, 3) for n in range(40)}
    assert moves == {(5, 5), (5, 1), (1, 5), (1, 7), (7, 1), (7, 3), (3, 7), (3, 3)}


def test_how_often_a_value_is_drawn_anew() -> None:
    space, config = SpaceConfig(uniform=(0, 1)), tune_config(resample_probability=0.25)
    found = [explore(space, 0.5, config, Random(n)) for n in range(1000)]
    near = sum(value in (0.4, 0.6) for value in found)
    assert 690 < near < 810
    assert max(found) > 0.9
    assert min(found) < 0.1
    always = [explore(space, 0.5, tune_config(resample_probability=1), Random(n)) for n in range(100)]
    assert len(set(always)) > 90


def test_no_two_of_one_parent_are_alike() -> None:
    config = TuneConfig(
        metric="x", scheduler="pbt", resample_probability=0, space={"a.z_loss": SpaceConfig(choice=[1, 2, 3])}
    )
    for seed in range(20):
        seeded = config.model_copy(update={"seed": seed})
        found = explored(seeded, 0, {5: 0, 6: 0}, {0: {"a.z_loss": 2}})
        assert sorted(each["a.z_loss"] for each in found.values()) == [1, 3]
    found = explored(config, 0, {5: 0, 6: 0, 7: 0}, {0: {"a.z_loss": 2}})
    assert len(found) == 3, "there are no more values: one is used twice"
    golden = explored(
        TuneConfig(metric="x", scheduler="pbt", space={"a.z_loss": SpaceConfig(uniform=(0, 1))}),
        1,
        {3: 0, 4: 0},
        {0: {"a.z_loss": 0.5}},
    )
    assert golden == GOLDEN, "a search that is half done must go on as it began"


def test_a_record_that_was_read_again_decides_the_same() -> None:
    """JSON gives the changes' whole numbers back as 0.0, which is the choice's 0."""
    config = TuneConfig(
        metric="x", scheduler="pbt", resample_probability=0, space={"a.z_loss": SpaceConfig(choice=[0, 1])}
    )
    for seed in range(20):
        seeded = config.model_copy(update={"seed": seed})
        for value in (0, 1):
            written = explored(seeded, 0, {5: 0}, {0: {"a.z_loss": value}})
            assert explored(seeded, 0, {5: 0}, {0: {"a.z_loss": float(value)}}) == written
            assert written[5]["a.z_loss"] == 1 - value


GOLDEN = {3: {"a.z_loss": 0.6}, 4: {"a.z_loss": 0.4}}


def test_the_values_at_the_end_are_those_of_the_last_change() -> None:
    record = TrialRecord(number=0, values={"pretrain.learning_rate": 0.1, "pretrain.z_loss": 0.0})
    assert record.current == record.values
    changes = [{"at_fraction": 0.2, "learning_rate": 0.2}, {"at_fraction": 0.4, "learning_rate": 0.3, "z_loss": 1.0}]
    changed = record.model_copy(update={"changes": changes})
    assert changed.current == {"pretrain.learning_rate": 0.3, "pretrain.z_loss": 1.0}
    assert change_to(0.4, {"a.x": 1, "a.y": 2}, {"a.x": 1, "a.y": 3}) == {"at_fraction": 0.4, "y": 3}


IDENTITIES: dict[str, str] = {}


class Cut(Exception):
    """The driver is killed."""


class World:
    """In place of Ray and training: a member's loss follows from its recipe, and the driver may be killed."""

    def __init__(
        self, search: Search, store: Store, monkeypatch: pytest.MonkeyPatch, cut_at: int | None = None
    ) -> None:
        self.search, self.store, self.cut_at = search, store, cut_at
        self.trained: list[tuple[str, float | None]] = []
        self.handed: dict[str, tuple[str, int]] = {}
        self.recipes: dict[str, tuple[Any, Any]] = {}
        self.said: list[str] = []
        self.writes = 0
        monkeypatch.setattr(generations, "hand_over", self.hand_over)
        real = Search.artifact_of

        def artifact_of(
            search: Search, record: TrialRecord
        ) -> str:  # identities are slow, and asked for again and again
            key = json.dumps(search.values_of(record))
            if key not in IDENTITIES:
                IDENTITIES[key] = real(search, record)
            return IDENTITIES[key]

        monkeypatch.setattr(Search, "artifact_of", artifact_of)
        monkeypatch.setattr(Records, "put", self.counted(Records.put))

    def counted(self, put: Any) -> Any:
        def counting(records: Records, record: TrialRecord) -> TrialRecord:
            self.write()
            found: TrialRecord = put(records, record)
            return found

        return counting

    def write(self) -> None:
        self.writes += 1
        if self.writes == self.cut_at:
            raise Cut

    def hand_over(self, store: Store, source: str, target: str, step: int) -> None:
        assert (source, step / 40) in self.trained, "it has a checkpoint there"
        self.write()
        self.handed[target] = source, step

    def fit(self, records: Records, numbers: Sequence[int], until: float | None) -> None:
        for number in numbers:
            record = records.trials[number]
            artifact = self.search.artifact_of(record)
            rates = [record.values["pretrain.learning_rate"]]
            rates += [each.get("learning_rate", 0) for each in record.changes]
            loss = 1 + abs(math.log(record.current["pretrain.learning_rate"] / 0.01)) + 0.01 * len(rates)
            if record.changes and record.changes[-1]["at_fraction"] == points(0.25)[record.generation - 1]:
                source, _ = self.handed[artifact]
                assert self.recipes[source] == (record.values, record.changes[:-1]), "it begins as its parent did"
            self.recipes[artifact] = record.values, record.changes
            if until is None:
                records.change(number, state="finished", objective=loss, reports=self.reports(record, 40, loss))
                self.trained.append((artifact, None))
                continue
            step = round(until * 40)
            self.trained.append((artifact, until))
            marks = [*record.marks[: record.generation], Mark(step=step, loss=loss)]
            records.change(number, state="paused", marks=marks, reports=self.reports(record, step, loss))

    def reports(self, record: TrialRecord, step: int, loss: float) -> list[Report]:
        return [*record.reports, Report(order=0, step=step, progress=100 * step / 40, loss=loss)]

    def go(self) -> Records:
        records = Records(self.store, self.search.id)
        for trial in self.search.trials:
            if trial.number not in records.trials:
                records.put(TrialRecord(number=trial.number, values=dict(trial.proposal.values)))
        train_population(self.search, records, lambda n, until: self.fit(records, n, until), self.said.append)
        return records


def test_a_population_moves_to_better_values(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    world = World(plan(), store, monkeypatch)
    records = world.go()
    found = list(records)
    assert [each.state for each in found] == ["finished"] * 8
    assert [len(each.marks) for each in found] == [3] * 8
    assert len(world.handed) >= 4, "two of eight in each of three comparisons; some were the last again"
    first = sorted(each.marks[0].loss for each in found)
    assert max(each.objective or 0 for each in found) < first[-2], "nobody stayed among the last"
    assert len(set(world.trained)) == len(world.trained), "no generation was trained twice"
    changed = [each for each in found if each.changes]
    assert changed
    for each in changed:
        recipe: Any = world.search.recipe_of(each)
        assert [change.at_fraction for change in recipe.pretrain.changes] == [c["at_fraction"] for c in each.changes]
        assert recipe.pretrain.learning_rate == each.values["pretrain.learning_rate"]
        assert each.takeovers
    assert any("gives up at 25 % and goes on from trial" in text for text in world.said)
    result = publish_results(world.search, records, tmp_path / "best.yaml")
    page = store.read(f"tune/{world.search.id}/report.html").decode()
    assert result.best is not None
    assert ("Schedule of the best trial" in page) == bool(result.best.changes)
    from pipelines.recipe import load_recipe

    assert load_recipe(tmp_path / "best.yaml") == world.search.recipe_of(result.best)
    assert "changes" in store.read(f"tune/{world.search.id}/results.csv").decode().splitlines()[0]
    assert f"best: trial {result.best.number}" in summary(result)


@pytest.mark.parametrize("cuts", [(18, 20, 21), pytest.param((9, *range(17, 27), 66), marks=pytest.mark.slow)])
def test_a_search_that_is_cut_off_anywhere_decides_the_same(
    cuts: Sequence[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.store import open_store

    search = plan(RATE)
    whole = World(search, open_store(tmp_path / "whole"), monkeypatch)
    wanted = {each.number: each.model_dump() for each in whole.go()}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for cut_at in cuts:
        store = open_store(tmp_path / f"cut-{cut_at}")
        with monkeypatch.context() as patch:
            cut = World(search, store, patch, cut_at)
            with pytest.raises(Cut):
                cut.go()
        with monkeypatch.context() as patch:
            again = World(search, store, patch)
            again.trained, again.handed, again.recipes = cut.trained, cut.handed, cut.recipes  # what is in the store
            assert {each.number: each.model_dump() for each in again.go()} == wanted
        twice = len(again.trained) - len(set(again.trained))
        assert twice <= 1, "only a member whose mark was being written comes again to where it was"
        assert set(again.trained) == set(whole.trained)


def test_a_member_that_fails_leaves_and_a_lost_one_is_repeated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(plan(RATE), store, monkeypatch)
    fit = world.fit

    def failing(retry: bool) -> Any:
        def fits(records: Records, numbers: Sequence[int], until: float | None) -> None:
            fit(records, [number for number in numbers if number != 3], until)
            if 3 in numbers:
                records.change(3, state="failed", reason="the loss became nan", retry=retry)

        return fits

    monkeypatch.setattr(world, "fit", failing(True))
    with pytest.raises(InfraError, match="trial 3 was lost: the loss became nan"):
        world.go()
    known = {each.number: each.marks for each in Records(store, world.search.id)}
    assert [number for number in range(8) if known[number]] == [0, 1, 2, 4, 5, 6, 7]
    Records(store, world.search.id).change(3, state="running", retry=False)
    monkeypatch.setattr(world, "fit", failing(False))
    records = world.go()
    assert records.trials[3].state == "failed"
    assert [each.state for each in records if each.number != 3] == ["finished"] * 7
    assert records.trials[3].marks == []


def test_where_time_ran_out_nothing_is_decided(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(plan(RATE), store, monkeypatch)
    fit = world.fit
    monkeypatch.setattr(world, "fit", lambda records, numbers, until: fit(records, numbers[:-1], until))
    records = world.go()
    assert [each.state for each in records] == ["paused"] * 7 + ["running"]
    assert all(each.generation == 0 for each in records)


@pytest.mark.parametrize(
    ("space", "replaced", "message"),
    [
        ("pretrain.optimizer: {choice: [adamw, muon]}", {}, "r.yaml:13: pretrain.optimizer cannot change in mid-tr"),
        ("pretrain.seed: {integers: [1, 99]}", {}, "r.yaml:13: pretrain.seed cannot change in mid-training"),
        ("tokens.sequence_length: {choice: [32, 64]}", {}, "cannot change in mid-training"),
        ("finetune.learning_rate: {uniform: [0.1, 1]}", {}, "finetune.learning_rate cannot change in mid-training"),
        ("pretrain.z_loss: {grid: [0, 1]}", {}, "r.yaml:13: pretrain.z_loss: a grid tries each value once"),
        (
            "pretrain.z_loss: {integers: [0, 9]}",
            {},
            "r.yaml:13: pretrain.z_loss: a fifth more or less of a whole number",
        ),
        (RATE, {"trials": "trials: 3"}, "r.yaml:10: pbt needs 4 trials or more, and there are 3"),
        ("pretrain.z_loss: {choice: [0, 1]}", {}, "r.yaml:12: pbt needs 4 trials or more, and there are 2"),
        (RATE, {"steps": "steps: 3"}, "r.yaml:13: .*of 3 steps leave no step between"),
        (RATE, {"workers": "early_stopping: 2"}, "r.yaml:5: early_stopping ends trials at different times"),
        (
            RATE,
            {"workers": "changes: [{at_fraction: 0.5, z_loss: 1}]"},
            "r.yaml:5: pbt writes pretrain.changes itself",
        ),
        (RATE, {"interval_fraction": "interval_fraction: 0.7"}, "r.yaml:11: tune.interval_fraction: .*less than or eq"),
    ],
)
def test_what_a_population_cannot_be_is_told_with_its_line(space: str, replaced: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(space, **replaced)
    assert caught.value.next_step


def test_a_metric_without_training() -> None:
    with pytest.raises(UserError, match=r"r.yaml:9: pbt compares and copies trials while pretrain or finetune trains"):
        plan("curate.language: {choice: [[en], [de]]}", metric="curate.documents")


def test_the_guide_s_population_is_one() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
    _, population = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    search = plan_search(parse_document(RECIPE.partition("\ntune:")[0] + "\n" + population, "r.yaml"))
    assert (search.config.scheduler, len(search.trials)) == ("pbt", 8)


def test_a_population_that_only_time_limits_has_the_default_size() -> None:
    assert len(plan(RATE, trials="max_seconds: 60").trials) == DEFAULT_TRIALS


def test_the_population_is_part_of_the_search_s_name() -> None:
    names = [
        plan(RATE).id,
        plan(RATE, trials="trials: 9").id,
        plan(RATE, interval_fraction="interval_fraction: 0.5").id,
        plan(RATE, scheduler="scheduler: asha").id,
    ]
    assert len(set(names)) == 4
    finetuned = plan("finetune.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}", metric="finetune.validation.loss")
    assert finetuned.trained == "finetune"
