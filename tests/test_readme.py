"""Every command that README and docs show is one that works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import parse_document
from pipelines.cli import build_parser
from pipelines.recipe import load_recipe, validate_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/README.md"))]


def commands() -> list[tuple[str, str]]:
    """Lines of shell blocks, as (page, command); output shown after them is not part of such blocks."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                text = line.split("  #")[0].strip().removeprefix("$ ")
                if text and not text.startswith("#"):
                    found.append((page.relative_to(ROOT).as_posix(), text))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_shown_command_exists(page: str, command: str) -> None:
    words = shlex.split(command)
    while "=" in words[0]:  # environment variables before the command
        words.pop(0)
    program = words[0].rpartition("/")[2]
    if program == "make":
        result = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    elif program == "raymill":
        build_parser().parse_args(words[1:])
    elif program == "curl":
        pass  # tests/test_docs.py holds these to what the gateway answers
    elif page == "docs/serving.md" and program in ("mkdir", "ray"):
        pass  # tests/cluster/test_session.py runs these, word by word
    elif page == "docs/kubernetes.md" and program in ("docker", "kubectl"):
        # tests/k8s builds what these read, without a cluster or Docker; that it is there is checked here
        shown = [word for word in words if word.startswith("k8s/")]
        assert shown and all((ROOT / word).exists() for word in shown)
    else:
        pytest.fail(f"{page} shows {command!r}, which no test runs")


def test_commands_that_need_no_models_do_run_as_shown(tmp_path: Path) -> None:
    """In the order of the page, in an empty folder; what trains or serves is run by the end-to-end test."""
    ran = []
    for page, command in commands():
        words = shlex.split(command)
        if (
            page == "README.md"
            and words[0].endswith("/raymill")
            and words[1] in ("new", "plan", "verify", "gc", "doctor")
        ):
            result = subprocess.run(
                [sys.executable, "-m", "pipelines.cli", *words[1:]],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            nothing_to_verify = words[1] == "verify" and "there is nothing in this store" in result.stderr
            assert result.returncode == 0 or nothing_to_verify, f"{command}: {result.stderr}{result.stdout}"
            ran.append(words[1])
    assert ran == ["new", "plan", "verify", "gc", "doctor"]


def test_the_recipe_shown_is_the_demos() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert validate_recipe(parse_document(shown, "README.md")) == load_recipe("demo.yaml")


def test_readme_shows_the_two_commands() -> None:
    shown = [command for page, command in commands() if page == "README.md"]
    assert "make demo" in shown
    assert "make test" in shown


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
