"""What the guides show is possible: calls that the gateway knows, recipes that are valid, messages that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.config import parse_document
from cluster.store import open_store
from pipelines.recipe import Recipe, validate_recipe
from serving.config import LimitsConfig
from serving.rollout.gate import decision_for

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PATHS_WITHOUT_DESCRIPTION = {"/admin/status", "/admin/weights"}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every code block of a language."""
    pattern = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    return [(page.name, text) for page in GUIDES for text in pattern.findall(page.read_text(encoding="utf-8"))]


def calls() -> list[tuple[str, list[str]]]:
    """(page, words) of every curl command."""
    return [
        (page, shlex.split(line))
        for page, text in blocks("sh")
        for line in text.splitlines()
        if line.startswith("curl ")
    ]


@pytest.mark.parametrize(("page", "words"), calls())
def test_shown_calls_are_ones_that_the_gateway_answers(page: str, words: list[str]) -> None:
    from serving.gateway.openapi import description

    (url,) = [word for word in words if word.startswith("http://")]
    path = urlsplit(url).path
    paths = description(None)["paths"]
    assert path in paths or path in PATHS_WITHOUT_DESCRIPTION, f"{page}: {url}"
    if "-d" in words:
        assert isinstance(json.loads(words[words.index("-d") + 1]), dict)
        assert "Content-Type: application/json" in words
        assert path in PATHS_WITHOUT_DESCRIPTION or "post" in paths[path]


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_shown_programs_compile(page: str, text: str) -> None:
    compile(text, page, "exec")


def test_the_shown_decision_opens_a_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = [text for page, text in blocks("python") if "publish_decision" in text]
    exec(compile(program, "rollout.md", "exec"), {})
    store = open_store("raymill-store")
    assert decision_for(store, "Adapter/finetune-0123456789ab", "Model/pretrain-0123456789ab", "newest")


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_shown_recipes_are_valid(page: str, text: str) -> None:
    document = parse_document(text, page)
    assert document.data.keys() <= Recipe.model_fields.keys()
    validate_recipe(document)


def test_shown_limits_exist() -> None:
    named = {
        assignment.partition("=")[0]
        for _, text in blocks("sh")
        for line in text.splitlines()
        if line.startswith("raymill limits")
        for assignment in re.findall(r"--set (\S+)", line)
    }
    assert named
    assert named <= LimitsConfig.model_fields.keys()


def test_the_runbooks_messages_are_those_of_the_gateway() -> None:
    """The first column of the table about 503s, against the gateway's source."""
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    section = text.partition("## Callers get 503")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    messages = [message for row in rows for message in row.split(" · ")]
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "serving" / "gateway").glob("*.py"))
    assert len(messages) > 5
    assert [message for message in messages if message not in source] == []
