"""The guide "Fine-tune your first model", its files written and its commands run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def section() -> str:
    text = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    return text.partition("## Fine-tune your first model\n")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    """The section's code blocks of a language; output that is shown has none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.fixture
def place(tmp_path: Path, chat_model: Path) -> Path:
    """A folder with what the guide takes for granted: a base model, and a file of examples like the one it shows."""
    from pipelines.models.export import export_model
    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape

    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    model = build_llama(shape, vocab_size=300, max_positions=256, bos_id=0, eos_id=1, pad_id=2)
    export_model(model, chat_model, tmp_path / "models" / "base", torch.randint(0, 300, (1, 8)))
    (shown,) = (json.loads(text) for text in blocks("json"))
    rows = []
    for number in range(40):
        asked, answered = (dict(turn) for turn in shown["messages"])
        asked["content"] = f"{number}: {asked['content']}"
        rows.append({"messages": [asked, answered]})
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = blocks("yaml")[0]
    assert recipe.startswith("name: support")
    (tmp_path / "support.yaml").write_text(recipe)
    return tmp_path


def test_the_guides_commands_do_what_it_says(place: Path) -> None:
    said = {}
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line.partition("  #")[0])
        assert words[0] == "raymill"
        if words[1] == "serve":  # tests/test_end_to_end.py serves what was made
            continue
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words[1:]],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
        said[words[1]] = done.stdout
    assert list(said) == ["plan", "run", "show", "merge"]
    for line in blocks("")[0].splitlines()[:3]:  # what the plan is shown to begin with
        assert line in said["plan"]
    assert "example 3, chats.jsonl:" in said["plan"]
    assert "finetune" in said["run"] and "Adapter/finetune-" in said["show"]

    from transformers import AutoModelForCausalLM

    merged, told = AutoModelForCausalLM.from_pretrained(place / "support-model", output_loading_info=True)
    assert not any(told.values()) and merged.config.model_type == "llama"
