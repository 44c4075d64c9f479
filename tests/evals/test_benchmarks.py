"""Which questions are asked is always somebody's choice, is checked to be complete, and is part of the identity."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.stage import identify
from evals import benchmarks
from evals.benchmarks import chosen, open_benchmarks, resolve_identity
from evals.config import STAGE, EvalsConfig
from evals.mirror import hash_files, manifest_sha256
from evals.official import official_tasks

from .conftest import write_benchmarks

SUITES = ("arc_easy", "truthfulqa_mc1")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "mirror", SUITES)


def config(choice: object, suites: tuple[str, ...] = SUITES) -> EvalsConfig:
    return EvalsConfig(benchmarks=None if choice is None else str(choice), suites=suites)


def test_the_environment_fills_an_absent_key_and_only_that() -> None:
    environment = {"RAYMILL_BENCHMARKS": "/somewhere"}
    assert chosen(config(None), environment) == "/somewhere"
    assert chosen(config("sample"), environment) == "sample"
    assert chosen(config("hub"), {}) == "hub"


@pytest.mark.parametrize("environment", [{}, {"RAYMILL_BENCHMARKS": ""}])
def test_without_a_choice_the_three_choices_are_named(environment: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        chosen(config(None), environment)
    message = str(caught.value)
    assert all(word in message for word in ("evals.benchmarks", "sample", "hub", "path", "RAYMILL_BENCHMARKS"))


def test_the_identity_has_the_sets_hash_and_never_its_place(mirror: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another" / "place"
    shutil.copytree(mirror, elsewhere)
    first, second = (identify(STAGE, config(place), {"model": "x"}) for place in (mirror, elsewhere))
    assert first.fingerprint == second.fingerprint
    assert str(tmp_path) not in json.dumps(first.fields())
    assert first.config["benchmarks"] == "mirror"
    assert first.config["benchmarks_sha256"] == open_benchmarks(config(mirror)).sha256


def test_a_choice_by_environment_gives_the_same_identity(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL_BENCHMARKS", str(mirror))
    assert resolve_identity(config(None)) == resolve_identity(config(mirror))


def test_one_changed_byte_changes_the_identity(mirror: Path) -> None:
    before = resolve_identity(config(mirror))
    file = next(mirror.rglob("test-*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"?", b"!", 1))
    assert resolve_identity(config(mirror))["benchmarks_sha256"] != before["benchmarks_sha256"]


def test_the_manifest_is_the_hash_of_sorted_paths_and_file_hashes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "z.jsonl").write_bytes(b"1")
    (tmp_path / "a" / "b.md").write_bytes(b"2")
    files = (("a/b.md", b"2"), ("a/b/z.jsonl", b"1"))
    lines = [f"{path}\0{hashlib.sha256(data).hexdigest()}\n" for path, data in files]
    assert manifest_sha256(hash_files(tmp_path, ["a"])) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_hidden_files_and_other_datasets_do_not_count(mirror: Path) -> None:
    before = open_benchmarks(config(mirror)).sha256
    (mirror / "allenai" / "ai2_arc" / ".cache").mkdir()
    (mirror / "allenai" / "ai2_arc" / ".cache" / "x").write_text("x")
    (mirror / "other" / "set").mkdir(parents=True)
    (mirror / "other" / "set" / "x.parquet").write_text("x")
    assert open_benchmarks(config(mirror)).sha256 == before


def test_a_copy_of_the_sample_is_still_called_sample(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = mirror.with_name("copy")
    shutil.copytree(mirror, copy)
    monkeypatch.setattr(benchmarks, "SAMPLE", mirror)
    assert open_benchmarks(config("sample")).label == "sample"
    assert open_benchmarks(config(copy)).label == "sample"
    file = next(copy.rglob("validation-*.jsonl"))
    file.write_text(file.read_text() + "\n")
    assert open_benchmarks(config(copy)).label == "mirror"


def test_hub_means_fixed_revisions() -> None:
    both, one = (open_benchmarks(config("hub", suites)) for suites in (SUITES, ("arc_easy",)))
    assert both.label == "hub"
    assert both.root is None
    assert both.sha256 != one.sha256
    assert open_benchmarks(config("hub", ("arc_challenge",))).sha256 == one.sha256


def test_every_score_names_its_set(mirror: Path) -> None:
    assert open_benchmarks(config(mirror)).name("arc_easy") == "arc_easy (mirror)"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: shutil.rmtree(root / "truthfulqa"), "truthfulqa/truthful_qa/README.md: is missing"),
        (lambda root: next(root.rglob("train-*.jsonl")).unlink(), "ARC-Easy, split train: its files are missing"),
        (
            lambda root: (root / "allenai/ai2_arc/README.md").write_text("---\nconfigs: 7\n---\n"),
            "does not list `configs:`",
        ),
        (
            lambda root: (root / "allenai/ai2_arc/README.md").write_text(
                "---\nconfigs:\n- config_name: Other\n  data_files: x.jsonl\n---\n"
            ),
            "has no configuration ARC-Easy",
        ),
        (
            lambda root: (root / "allenai/ai2_arc/README.md").write_text(
                "---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n  - split: test\n    path: '*/test*'\n---\n"
            ),
            "ARC-Easy, split train: README.md names no files",
        ),
    ],
)
def test_what_is_missing_from_a_folder_is_named(mirror: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(mirror)
    with pytest.raises(UserError) as caught:
        open_benchmarks(config(mirror))
    assert said in str(caught.value)
    assert caught.value.where == str(mirror)
    lacking = "truthfulqa_mc1" if "truthful" in said else "arc_easy"
    assert f"`raymill benchmarks mirror FOLDER --suite {lacking}` puts what is missing" in caught.value.next_step


def test_files_in_another_format_are_named(mirror: Path) -> None:
    readme = mirror / "allenai" / "ai2_arc" / "README.md"
    readme.write_text(readme.read_text().replace("test-*.jsonl", "test-*.csv"))
    (mirror / "allenai" / "ai2_arc" / "ARC-Easy" / "test-0.csv").write_text("id\n")
    with pytest.raises(UserError, match=r"test-0\.csv: only \.parquet and \.jsonl"):
        open_benchmarks(config(mirror))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_benchmarks(config(tmp_path / "nowhere"))


@pytest.mark.anchor
def test_the_real_mirror_is_complete_for_all_suites(anchors: Path) -> None:
    found = open_benchmarks(EvalsConfig(benchmarks=str(anchors / "benchmarks")))
    assert found.label == "mirror"


OWN = """
task: team_capitals
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/test*.jsonl, train: [FOLDER/train.jsonl]}}
test_split: test
training_split: train
output_type: generate_until
doc_to_text: question
doc_to_target: answer
"""


def test_the_rows_of_a_teams_tasks_are_part_of_the_identity(tmp_path: Path) -> None:
    """Else an evaluation on other questions would be called published already."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(OWN.replace("FOLDER", str(tmp_path)))
    config = EvalsConfig(benchmarks="sample", suites=("team_capitals",), tasks_folder=str(tmp_path / "tasks"))
    with pytest.raises(UserError, match=r"test\*\.jsonl: no such file"):
        resolve_identity(config)
    for name in ("test-0.jsonl", "test-1.jsonl", "train.jsonl"):
        (tmp_path / name).write_text(name)
    identities = [resolve_identity(config)]
    for name in ("test-1.jsonl", "train.jsonl"):
        (tmp_path / name).write_text("other")
        identities.append(resolve_identity(config))
    assert len({json.dumps(each) for each in identities}) == 3
    (tmp_path / "beside.jsonl").write_text("nobody reads it")
    assert resolve_identity(config) == identities[-1]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({"data_files": "one.csv"}, ("one.csv",)),
        ({"data_files": ["one.csv", "/two.csv"]}, ("/two.csv", "one.csv")),
        ({"data_dir": "/rows"}, ("/rows",)),
        ({"data_dir": "/rows", "data_files": {"test": "one.csv"}}, ("/rows/one.csv",)),
        ({"data_files": {"test": "https://somewhere/one.csv", "train": "s3://bucket/two.csv"}}, ()),
        ({}, ()),
    ],
)
def test_the_places_that_a_task_reads_its_rows_from(
    arguments: dict[str, object], read: tuple[str, ...], tmp_path: Path
) -> None:
    text = f"task: own\ndataset_path: csv\ndataset_kwargs: {json.dumps(arguments)}\ntest_split: test\n"
    (tmp_path / "own.yaml").write_text(text)
    (task,) = official_tasks(["own"], str(tmp_path))
    assert task.own_data == read
