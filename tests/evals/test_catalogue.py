"""Every name that lm-eval knows is found, in the same files, and a team's own folder comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from evals.catalogue import expand_tag, read_folder, shipped, task_files, tasks_root
from evals.config import EvalsConfig
from evals.official import official_tasks
from evals.presets import PRESETS

OWN = """
task: team_capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: choices
doc_to_target: answer
tag: [team]
metadata: {version: 2}
"""


@pytest.mark.slow
def test_the_catalogue_is_lm_evals_own_index() -> None:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Kind

    index = TaskManager().task_index
    kinds = {kind: {name for name, entry in index.items() if entry.kind is kind} for kind in Kind}
    found = shipped()
    assert {name: index[name].yaml_path for name in kinds[Kind.TASK] | kinds[Kind.PY_TASK]} == found.tasks
    assert {name: index[name].yaml_path for name in kinds[Kind.GROUP]} == found.groups
    assert {name: index[name].tags for name in kinds[Kind.TAG]} == found.tags
    assert len(found.tasks) > 10_000


def test_names_that_are_not_the_usual_suites_are_found_with_all_that_they_consist_of() -> None:
    assert [task.name for task in official_tasks(["hellaswag"])] == ["hellaswag"]
    assert {path.name for _, path in task_files(["mmlu_stem"])} > {"mmlu_anatomy.yaml", "_mmlu_stem.yaml"}
    assert expand_tag("ai2_arc") == ["arc_challenge", "arc_easy"]
    (winogrande,) = official_tasks(["winogrande"])
    assert (winogrande.dataset, winogrande.splits) == ("allenai/winogrande", ("validation", "train"))


def test_the_usual_suites_need_no_search_and_are_the_same_files_as_found_by_search() -> None:
    for suite in ("arc_easy", "arc_challenge", "truthfulqa_mc1", "truthfulqa_mc2", "truthfulqa_gen"):
        assert [path for _, path in task_files([suite])] == shipped().files(suite)
    by_search = {path for path in shipped().files("mmlu") if path.parent == tasks_root() / "mmlu" / "default"}
    assert {path for _, path in task_files(["mmlu"])} == by_search


@pytest.mark.parametrize(
    ("written", "meant"), [("hellaswagg", "hellaswag"), ("arc_esay", "arc_easy"), ("truthfulqa_mc", "truthfulqa_mc2")]
)
def test_an_unknown_name_is_refused_with_the_nearest_one(written: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"unknown task '{written}'; did you mean {meant}"):
        EvalsConfig(suites=(written,))


def test_a_teams_folder_adds_names_and_comes_first(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "capitals.yaml").write_text(OWN)
    (tmp_path / "hellaswag.yaml").write_text(OWN.replace("team_capitals", "hellaswag"))
    (tmp_path / "broken.yaml").write_text("task: [")
    config = EvalsConfig(tasks_folder=str(tmp_path), suites=("team_capitals", "arc_easy"))
    own, arc = official_tasks(config.suites, config.tasks_folder)
    assert (own.name, own.dataset, own.version) == ("team_capitals", "", "2")
    assert arc.dataset == "allenai/ai2_arc"
    assert task_files(["hellaswag"], str(tmp_path)) == [("hellaswag", tmp_path / "hellaswag.yaml")]
    assert EvalsConfig(tasks_folder=str(tmp_path), suites=("team",)).suites == ("hellaswag", "team_capitals")
    with pytest.raises(ValidationError, match="did you mean team_capitals"):
        EvalsConfig(tasks_folder=str(tmp_path), suites=("team_capital",))


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    for place, said in ((tmp_path, "holds no task"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=said):
            read_folder(str(place))


def test_a_task_without_a_split_to_ask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: team_x\ndataset_path: org/x\ntraining_split: train\n")
    with pytest.raises(UserError, match="names no split to ask"):
        official_tasks(["team_x"], str(tmp_path))


def test_the_leaderboard_preset_says_suites_and_shots() -> None:
    config = EvalsConfig(preset="leaderboard")
    assert config.suites == ("arc_challenge", "mmlu", "truthfulqa_mc2")
    assert config.num_fewshot == {"arc_challenge": 25, "mmlu": 5, "truthfulqa_mc2": 0}
    assert PRESETS["leaderboard"].headline == {"arc_challenge": "acc_norm", "mmlu": "acc", "truthfulqa_mc2": "acc"}
    assert EvalsConfig(**config.model_dump()) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_tasks_that_there_are(name: str) -> None:
    config = EvalsConfig(preset=name)
    assert set(PRESETS[name].headline) == set(config.suites)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "leaderbord"}, "unknown preset 'leaderbord'; known: leaderboard, bias"),
        ({"preset": "leaderboard", "suites": ["arc_easy"]}, "preset leaderboard says suites itself"),
        ({"preset": "leaderboard", "num_fewshot": 3}, "preset leaderboard says num_fewshot itself"),
        ({"suites": ["arc_easy"], "num_fewshot": {"mmlu": 5}}, "mmlu is not among suites"),
        ({"suites": ["ai2_arc", "arc_easy"]}, "'arc_easy' is given twice"),
        ({"limit": 3, "sample": 3}, "exclude each other"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EvalsConfig(**settings)


def test_a_file_that_includes_itself_is_said_to(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml\ntask: a\ndataset_path: json\ntest_split: test\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(UserError, match="includes itself"):
        official_tasks(["a"], str(tmp_path))
