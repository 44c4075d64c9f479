"""The guide's commands are ones that the command line takes, and its task file is one that can be asked."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.tasks import load_tasks, quick_and_quiet
from pipelines.cli import build_parser
from pipelines.commands.eval import settings_of

GUIDE = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = GUIDE.read_text(encoding="utf-8")
TASK = re.findall(r"```yml\n(.*?)```", TEXT, re.DOTALL)[0]


def commands() -> list[list[str]]:
    """The words of every command on evaluations and mirrors."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(("raymill eval ", "raymill benchmarks "))]


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """The guide's task with three questions, in a folder called our-tasks."""
    rows = [
        {"question": f"What is the capital of {land}?", "choices": ["Rome", "Oslo", "Lima"], "right": place}
        for place, land in enumerate(("Italy", "Norway", "Peru"))
    ]
    data = tmp_path / "capitals.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "our-tasks").mkdir()
    (tmp_path / "our-tasks" / "capitals.yaml").write_text(TASK.replace("/data/team/capitals.jsonl", str(data)))
    return tmp_path


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_shown_commands_are_taken(words: list[str], team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(team)
    arguments = build_parser().parse_args(words)
    if words[0] == "eval":
        assert settings_of(arguments).suites


def test_the_shown_task_is_asked_beside_lm_evals_own(team: Path) -> None:
    names = ("team_capitals", "arc_easy")
    config = EvalsConfig(tasks_folder=str(team / "our-tasks"), suites=names, benchmarks="sample")
    with quick_and_quiet():
        loaded = load_tasks(open_benchmarks(config), config)["tasks"]
        for task in loaded.values():
            task.build_all_requests()
    own = loaded["team_capitals"].instances
    assert [request.args for request in own[:3]] == [
        ("Question: What is the capital of Italy?\nAnswer:", f" {city}") for city in ("Rome", "Oslo", "Lima")
    ]
    assert len(own) == 9
    assert len(loaded["arc_easy"].instances) > 100
