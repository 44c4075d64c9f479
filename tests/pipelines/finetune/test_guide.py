"""The guide "Fine-tune your first model", its files written and its commands run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
QUESTION = "7: How do I reset my password?"
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]


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
    for number in range(240):
        asked, answered = (dict(turn) for turn in shown["messages"])
        asked["content"] = f"{number}: {asked['content']}"
        rows.append({"messages": [asked, answered]})
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = blocks("yaml")[0]
    assert recipe.startswith("name: support")
    (tmp_path / "support.yaml").write_text(recipe)
    return tmp_path


def start(place: Path, words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", *words]
    pipe = subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=place, env=environment, text=True, stdout=pipe, stderr=pipe)


def answer_of_the_served(place: Path, words: list[str]) -> str:
    """What the model says to a question, by the URL that the command prints; Ctrl-C ends it."""
    process = start(place, [*words, "--port", "0"])
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.match(r"serving models at (http://\S+/v1) ", said)
        assert found, process.communicate(timeout=60)[1][-3000:]
        asked = {"model": "models", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
        request = urllib.request.Request(f"{found[1]}/chat/completions", json.dumps(asked | {"max_tokens": 8}).encode())
        with urllib.request.urlopen(request, timeout=120) as reply:
            text = json.load(reply)["choices"][0]["message"]["content"]
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and "Traceback" not in errors, errors[-3000:]
    finally:
        process.kill()
        process.communicate()
    return str(text)


def answer_of(folder: Path) -> str:
    """The same by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()) and model.config.model_type == "llama"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": QUESTION}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        found = model.eval().generate(**asked, max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(found[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))


def test_the_guides_commands_do_what_it_says(place: Path) -> None:
    said, served = {}, ""
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line.partition("  #")[0])
        assert words[0] == "raymill"
        if words[1] == "serve":
            served = answer_of_the_served(place, words[1:])
            continue
        process = start(place, words[1:])
        out, errors = process.communicate(timeout=400)
        assert process.returncode == 0, f"{line}: {errors[-3000:]}"
        said[" ".join(words[1:])] = out
    plan, trial, whole, shown, _ = said.values()
    assert [each.split()[0] for each in said] == ["plan", "run", "run", "show", "merge"]
    for line in blocks("")[0].splitlines()[:3]:  # what the plan is shown to begin with
        assert line in plan
    assert "example 3, chats.jsonl:" in plan
    (planned,) = re.findall(r"Adapter/finetune-\w+", plan)
    assert shown.startswith(planned), "what was shown is what the plan said, not the trial"
    (fewer,), (all_of_them,) = (re.findall(r"trained on ([\d,]+) tokens", text) for text in (trial, whole))
    assert int(fewer.replace(",", "")) < int(all_of_them.replace(",", ""))
    assert served == answer_of(place / "support-model")
    assert served
