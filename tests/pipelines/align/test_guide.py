"""The guide's recipe from pairs: its commands run as they stand there, on a small model and examples of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.artifact import find_artifact
from cluster.store import open_store

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "alignment.md").read_text(encoding="utf-8").partition("## From pairs\n")[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def block(language: str) -> str:
    """The section's first code block of a language."""
    return str(re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)[0])


def test_the_guides_commands_do_what_it_says(chat_model: Path, tmp_path: Path) -> None:
    colours, others = ("red", "green", "blue"), ("cold", "warm", "old")
    pairs = [
        {"prompt": f"say {number}", "chosen": colours[number % 3], "rejected": others[number % 3]}
        for number in range(260)
    ]
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    examples = [{"prompt": f"say {number}", "completion": colours[number % 3]} for number in range(40)]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in examples))
    (tmp_path / "polite.yaml").write_text(block("yaml"))
    # What the guide leaves to the defaults (a model pretrained and tuned on this machine's documents), made small;
    # what evaluates and serves is not run.
    small = {"finetune.model": chat_model, "finetune.data": "examples.jsonl", "finetune.steps": 4}
    overrides = [f"--set={key}={value}" for key, value in small.items()]
    said = {}
    for line in block("sh").splitlines():
        words = shlex.split(line.partition("  #")[0])
        more = ["--until", "align"] if words[1] == "run" else []
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words[1:], *overrides, *more],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr[-3000:]}"
        said[words[1]] = done.stdout
    assert list(said) == ["plan", "run"]
    assert len(re.findall(r"^example \d, preferences.jsonl:\d+", said["plan"], re.MULTILINE)) == 3
    made = find_artifact(open_store(tmp_path / "raymill-store"), "align")
    assert made.kind == "Model"
    assert made.counts["pairs"] == 200
    assert "validation.accuracy" in made.metrics
