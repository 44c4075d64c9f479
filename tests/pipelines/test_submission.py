"""What `raymill submit` would send: the whole recipe, the code beside it, no secret; the same again is the same run."""

from __future__ import annotations

import io
import json
import os
import zipfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from cluster.config import parse_document
from cluster.errors import UserError
from cluster.job_record import Holding
from cluster.jobs import RECIPE_FILE
from cluster.secrecy import leaves, secret_in
from cluster.store import open_store
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.commands import job_arguments
from pipelines.recipe import RECIPES, dump_recipe, load_recipe, validate_recipe
from pipelines.submission import plan_submission

RECIPE = "name: small\ncorpus: {sources: [{kind: text, path: words, licence: MIT}]}\ntokenizer: {vocab_size: 300}\n"


def arguments(*words: str) -> Namespace:
    parser = ArgumentParser()
    job_arguments.submit(parser)
    return parser.parse_args(["small.yaml", *words])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("some words\n")
    (tmp_path / "mine.py").write_text("def keep(text): return True\n")
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYMILL_CLUSTERS", str(tmp_path.parent / "no-clusters"))
    return tmp_path


def test_the_recipe_that_travels_is_the_one_that_was_meant(place: Path) -> None:
    plan = plan_submission(arguments("--set", "tokenizer.vocab_size=400", "--until", "tokenizer", "--force", "corpus"))
    sent = plan.submission
    assert sent.package is not None
    archive = zipfile.ZipFile(io.BytesIO(sent.package.data))
    assert archive.namelist() == [RECIPE_FILE, "mine.py", "small.yaml", "words/a.txt"]
    recipe = validate_recipe(parse_document(archive.read(RECIPE_FILE).decode(), "sent"))
    assert recipe.tokenizer.vocab_size == 400
    assert recipe.cluster.address == "auto"
    assert recipe.store == str(place / "raymill-store")
    assert recipe.written == {"name", "corpus", "tokenizer", "store", "cluster"}
    assert sent.entrypoint()[-4:] == ["--until", "tokenizer", "--force", "corpus"]
    assert [stage.state for stage in plan.stages] == ["new", "new", "new"]


def test_the_same_again_is_the_same_run_and_a_change_of_code_is_not(place: Path) -> None:
    first = plan_submission(arguments()).submission.id
    (place / "raymill-store").mkdir()
    (place / "raymill-store" / "new").write_text("an artifact")
    assert plan_submission(arguments()).submission.id == first
    (place / "mine.py").write_text("def keep(text): return False\n")
    assert plan_submission(arguments()).submission.id != first


def test_only_what_is_to_run_is_in_the_plan() -> None:
    plan = plan_submission(arguments("--until", "curate"))
    assert [stage.name for stage in plan.stages] == ["corpus", "curate"]
    served = ["--set", "serving.variants=[{name: base, model: some/model}]"]
    assert "serving" not in plan_submission(arguments("--until", "curate", *served)).render("here")
    assert "runs every time" in plan_submission(arguments(*served)).render("here")


def test_a_run_that_is_at_work_elsewhere_is_told(place: Path) -> None:
    def notes() -> str:
        return "\n".join(plan_submission(arguments()).notes)

    run = plan_submission(arguments()).submission.id
    assert "is at work" not in notes()
    holding = Holding.take(LocalStore(place / "raymill-store"), run, "small", host="node-7")
    assert "attempt 1 of this run is at work on node-7" in notes()
    holding.write(state="failed")
    assert "is at work" not in notes()


def test_the_store_travels_as_the_folder_that_a_run_here_would_use(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    for written in ("models", "~/models", f"{place}/models", "../there", "s3://bucket/models"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        sent = plan_submission(arguments("--set", f"store={written}")).submission.store
        assert os.path.normpath(sent) == os.path.normpath(open_store(written).url)


def test_without_code_the_recipe_travels_alone() -> None:
    package = plan_submission(arguments("--no-code")).submission.package
    assert package is not None
    assert list(package.files) == [RECIPE_FILE]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--env", "HF_TOKEN=abc"], "HF_TOKEN is not sent"),
        (["--env", "NOTHING"], "reads NAME=VALUE"),
        (["--set", "serving.password=x"], "serving.password"),
        (["--set", "store=s3://key:secret@bucket/p"], "store is not sent: its value looks like a password"),
        (["--working-dir", "nowhere"], "is not a folder"),
        (["--set", "corpus.sorces=[]"], "unknown key"),
        (["--until", "tokeniser"], "did you mean tokenizer"),
        (["--only", "pretrain"], "no stage 'pretrain'"),
        (["--force", "tokens"], "no stage 'tokens'"),
        (["--set", "curate.decontaminate={}"], "no evals section"),
    ],
)
def test_mistakes_and_secrets_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        plan_submission(arguments(*words))


@pytest.mark.parametrize("recipe", sorted(each.name for each in RECIPES.glob("*.yaml")))
def test_no_key_of_a_recipe_is_taken_for_a_secret(recipe: str) -> None:
    """Every key there is, with its default, and every shipped recipe."""
    values = dict(leaves(dump_recipe(load_recipe(recipe))))
    assert len(values) > 20
    assert {name: value for name, value in values.items() if secret_in(name, value)} == {}


def test_a_dry_run_shows_plan_and_request_and_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["submit", "small.yaml", "--address", "http://127.0.0.1:9", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "POST http://127.0.0.1:9/api/jobs/" in shown
    assert "every node must see it" in shown
    command = ["submit", "small.yaml", "--address", "http://127.0.0.1:9", "--dry-run", "--json", "--env", "A=b"]
    assert run_command(command) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["request"]["submission_id"] == plan["run"]
    assert plan["request"]["runtime_env"]["env_vars"]["A"] == "b"


def test_without_a_cluster_it_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["submit", "small.yaml"]) == 2
    assert "start one with `raymill cluster up`" in capsys.readouterr().err
    assert run_command(["submit", "small.yaml", "--address", "127.0.0.1:9"]) == 3
