"""A submission's id follows from what is run, and is a name that Ray and Kubernetes accept."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from cluster.jobs import ID_LETTERS, Submission, attempt_id, attempt_of
from cluster.package import pack

SUBMISSION = Submission("demo", "name: demo\n", "s3://b/p", ("python", "-m", "pipelines.job"), ("--until", "tokens"))


def test_the_id_follows_from_what_is_run(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    same = replace(SUBMISSION, environment={"LOG": "1"})
    assert same.id == SUBMISSION.id
    packed = replace(SUBMISSION, package=pack(tmp_path))
    others = [
        replace(SUBMISSION, recipe="name: demo\nstore: x\n"),
        replace(SUBMISSION, store="s3://b/q"),
        replace(SUBMISSION, arguments=()),
        replace(SUBMISSION, image="raymill:2"),
        packed,
    ]
    assert len({SUBMISSION.id, *(each.id for each in others)}) == 1 + len(others)
    (tmp_path / "a.py").write_text("2")
    assert replace(SUBMISSION, package=pack(tmp_path)).id != packed.id


def test_the_golden_id() -> None:
    """A change here makes every running job a stranger to its submitter."""
    assert SUBMISSION.id == "raymill-demo-be63c8bd5b67"


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,80}", fullmatch=True))
def test_the_id_is_a_name_for_kubernetes(name: str) -> None:
    found = replace(SUBMISSION, name=name).id
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) <= ID_LETTERS
    assert len(attempt_id(found, 99)) <= 47  # KubeRay's limit for RayJobs


def test_the_entrypoint_is_one_line_for_a_shell() -> None:
    words = SUBMISSION.entrypoint("/etc/a recipe.yaml")
    assert words[3:] == ["/etc/a recipe.yaml", "--id", SUBMISSION.id, "--until", "tokens"]
    assert shlex.split(SUBMISSION.entrypoint_text("/etc/a recipe.yaml")) == words


@given(st.integers(1, 99))
def test_attempts_are_told_apart(attempt: int) -> None:
    run = SUBMISSION.id
    assert attempt_of(run, attempt_id(run, attempt)) == attempt
    assert attempt_of(run, "raymill-other-0") is None
    assert attempt_of(run, run + "-x") is None


def test_secrets_do_not_travel() -> None:
    SUBMISSION.check_secrets({"tokens": {"eos_token": "</s>"}})
    with pytest.raises(UserError, match="HF_TOKEN is not sent"):
        replace(SUBMISSION, environment={"HF_TOKEN": "abc"}).check_secrets({})
    with pytest.raises(UserError, match=r"serving\.auth\.password is not sent"):
        SUBMISSION.check_secrets({"serving": {"auth": {"password": "abc"}}})
    with pytest.raises(UserError, match="token is not sent"):
        replace(SUBMISSION, arguments=("--token", "abc")).check_secrets({})
