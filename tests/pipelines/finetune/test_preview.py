"""`raymill plan --examples`: what it shows of each kind of rows is what training makes batches of, token by token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cli import run_command
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.task import FinetuneTask
from pipelines.train.task import IGNORED


def turns(number: int) -> list[dict[str, str]]:
    said = ("be brief", f"words {number}", "word", f"and {number}", "words")
    return [
        {"role": role, "content": text}
        for role, text in zip(("system", "user", "assistant", "user", "assistant"), said, strict=True)
    ]


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "chat": lambda number: {"messages": turns(number)},
    "pairs": lambda number: {"prompt": f"words {number}", "completion": "word s"},
    "alpaca": lambda number: {"instruction": f"words {number}", "input": "more words", "output": "word s"},
    "text": lambda number: {"text": f"words and {number} words and " * 3},
}
CASES = [
    ("chat", {}),
    ("chat", {"loss_on": "last_answer"}),
    ("chat", {"loss_on": "everything"}),
    ("chat", {"sequence_length": 38, "too_long": "left"}),
    ("pairs", {"chat_template": "plain"}),
    ("alpaca", {"data.system": "words"}),
    ("text", {"sequence_length": 16, "too_long": "right"}),
]
Rows = set[tuple[tuple[int, ...], tuple[bool, ...]]]


def shown(lines: list[str]) -> Rows:
    """Ids of each example, and which are marked."""
    found: Rows = set()
    for block in "\n".join(lines).split("example ")[1:]:
        words = [line.split() for line in block.splitlines()[1:] if line]
        marks = tuple(each[1] == "*" for each in words)
        found.add((tuple(int(each[1 + mark]) for each, mark in zip(words, marks, strict=True)), marks))
    return found


def batched(task: FinetuneTask) -> Rows:
    """The same of what training reads and is to predict."""
    samples, found = task.samples()[0], set()
    for number in range(len(samples)):
        batch = samples.batch(np.array([number]))
        inputs, labels = batch.inputs[0].tolist(), batch.labels[0].tolist()
        ids = [*inputs, labels[-1]]
        learned = [False, *(each != IGNORED for each in labels)]
        assert all(ids[place] == label for place, label in enumerate(labels, start=1) if label != IGNORED)
        found.add((tuple(ids), tuple(learned)))
    return found


def test_a_plan_takes_a_tokenizer_of_an_older_layout_as_a_run_does(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "older"
    shutil.copytree(bases["gpt2"], older)
    vocabulary = json.loads((older / "tokenizer.json").read_text())["model"]
    (older / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (older / "merges.txt").write_text("".join(" ".join(pair) + "\n" for pair in vocabulary["merges"]))
    (older / "tokenizer.json").unlink()
    settings = json.loads((older / "tokenizer_config.json").read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
    (older / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(ROWS["pairs"](number)) + "\n" for number in range(3)))
    found = []
    for name, folder in (("new", bases["gpt2"]), ("older", older)):
        section = {"model": str(folder), "data": str(rows)}
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"store": str(tmp_path / "plans"), "finetune": section}))
        assert run_command(["plan", str(tmp_path / f"{name}.yaml"), "--examples", "1", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["examples"])
    assert found[0] == found[1]
    assert not list(older.glob("tokenizer.json"))


@pytest.mark.parametrize(("form", "settings"), CASES)
def test_a_plan_shows_the_tokens_of_training_and_what_carries_loss(
    form: str,
    settings: dict[str, Any],
    bases: dict[str, Path],
    task_of: Callable[..., FinetuneTask],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(ROWS[form](number)) + "\n" for number in range(9)))
    own = {name: value for name, value in settings.items() if "." not in name}
    data = {"kind": "jsonl", "path": str(rows)} | {name[5:]: v for name, v in settings.items() if "." in name}
    section = {"model": str(bases["llama"]), "data": data, "workers": 1} | own
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"store": str(tmp_path / "plans"), "finetune": section}))
    assert run_command(["plan", str(recipe), "--examples", "9", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    task = task_of(FinetuneConfig.model_validate(section), bases["llama"], own.get("chat_template"))
    expected = batched(task)
    assert len(expected) > 5
    assert shown(plan["examples"]) == expected
    assert ("shortened" in str(plan["examples"])) == ("too_long" in settings)
    assert {any(marks) for _, marks in expected} == {True}
