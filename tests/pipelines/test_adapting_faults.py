"""Fine-tuning and alignment on a real Ray, each method: a killed worker and then a killed driver change no bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.artifact import Artifact, list_artifacts
from cluster.store import Store, open_store
from tests.pipelines.one_process import TIMES
from tests.pipelines.train_driver import LIMIT_S, end_well, session_of, wait_until, workers_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]

STEPS, KILLED_AT = 80, (21, 45)
"""A worker is killed after the first of these steps, the driver after the second: neither has a checkpoint."""

TRAINED = {"steps": STEPS, "checkpoint_every_steps": 10, "workers": 2, "batch_sequences": 6, "learning_rate": 1e-3}
DRAWN = {"reward": "pipelines.align.simple_rewards:brief", "answer_tokens": 6}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("finetune", {"method": "lora", "dropout": 0.1}),
    "dora": ("finetune", {"method": "lora", "dora": True, "packing": True}),
    "ia3": ("finetune", {"method": "ia3"}),
    "adapter": ("finetune", {"method": "adapter", "bottleneck": 4}),
    "prompt": ("finetune", {"method": "prompt", "virtual_tokens": 4}),
    "prefix": ("finetune", {"method": "prefix", "virtual_tokens": 4}),
    "p-tuning": ("finetune", {"method": "p-tuning", "virtual_tokens": 4, "encoder_hidden": 8}),
    "full": ("finetune", {"method": "full", "l2_sp": 0.1, "layer_decay": 0.8}),
    "classification": ("finetune", {"task": "classification", "method": "lora"}),
    "seq2seq": ("finetune", {"task": "seq2seq", "method": "lora", "sequence_length": 48, "answers_scored": 2}),
    "reward": ("align", {"method": "reward"}),
    "dpo": ("align", {"method": "dpo"}),
    "simpo": ("align", {"method": "simpo"}),
    "grpo": ("align", {"method": "grpo", "answers_per_prompt": 3, **DRAWN}),
    "ppo": ("align", {"method": "ppo", "updates_per_rollout": 2, **DRAWN}),
    "grpo by vllm": ("align", {"method": "grpo", "answers_per_prompt": 3, "generation": "vllm", **DRAWN}),
}
KINDS = dict.fromkeys(("lora", "dora", "ia3", "adapter", "prompt", "prefix", "p-tuning"), "Adapter")
KINDS |= {"classification": "ClassifierAdapter", "seq2seq": "Seq2SeqAdapter", "reward": "RewardModel"}


def write_recipe(name: str, folder: Path, model: Path, preferences: Mapping[str, str]) -> Path:
    """A recipe of one method, and its rows."""
    section, settings = METHODS[name]
    rows = folder / "rows.jsonl"
    if section == "align":
        rows.write_text("".join(preferences.values()))
    else:
        made = [
            {"prompt": f"say {n}", "completion": ("red", "blue")[n % 2], "text": f"{n} " + "ab"[n % 2], "label": n % 2}
            for n in range(48)
        ]
        kept = ("text", "label") if settings.get("task") == "classification" else ("prompt", "completion")
        rows.write_text("".join(json.dumps({key: row[key] for key in kept}) + "\n" for row in made))
    recipe = folder / "recipe.yaml"
    text = {"name": "adapted", section: {"model": str(model), "data": str(rows), **TRAINED, **settings}}
    recipe.write_text(yaml.safe_dump(text))
    return recipe


@contextmanager
def running(recipe: Path, store: Path, log: Path) -> Iterator[psutil.Popen]:
    """`raymill run` of a recipe in a process of its own; it and everything it started are gone at the end."""
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--store", str(store)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as output:
        process = psutil.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT, env=environment
        )
    try:
        yield process
    finally:
        group = [each for each in psutil.process_iter(["pid"]) if session_of(each.pid) == process.pid]
        for each in group:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs([process, *group], timeout=10)


def journal(store: Path) -> list[dict[str, Any]]:
    """What was recorded so far of the one stage that trains, the newest file last."""
    paths = sorted(store.glob("*/*/*/resume/train/journal/*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for path in paths for line in path.read_text().split("\n")[:-1] if line]


def steps_taken(store: Path) -> int:
    return max((each["step"] for each in journal(store) if each["kind"] == "train"), default=0)


def begun(store: Path) -> int:
    return sum(each["kind"] == "start" for each in journal(store))


def result(store: Store, name: str) -> Artifact:
    (found,) = (each for each in list_artifacts(store, KINDS.get(name, "Model")) if each.name in ("finetune", "align"))
    return found


def trained(store: Store, artifact: Artifact) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What training recorded without how long it took, and the checksums of the weights."""
    lines = map(json.loads, store.read(artifact.key("metrics.jsonl")).decode().splitlines())
    kept = [
        {key: value for key, value in each.items() if key not in TIMES}
        for each in lines
        if each["kind"] in ("train", "validation")
    ]
    return kept, {each.path: each.sha256 for each in artifact.files if each.path.endswith(".safetensors")}


@pytest.fixture
def models(chat_model: Path, tmp_path: Path) -> dict[str, Path]:
    """What is adapted: an encoder-decoder with the other's tokenizer for ``seq2seq``, the chat model otherwise."""
    import torch

    from pipelines.models.export import export_model
    from pipelines.models.shapes import Shape
    from pipelines.models.t5 import build_t5

    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=2, heads=2, kv_heads=2, intermediate=48, norm_epsilon=1e-6)
    model = build_t5(shape, vocab_size=300, bos_id=0, eos_id=1, pad_id=2)
    probe = torch.randint(0, 300, (1, 8))
    export_model(model, chat_model, tmp_path / "t5", probe, {"decoder_input_ids": probe})
    return dict.fromkeys(METHODS, chat_model) | {"seq2seq": tmp_path / "t5"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.vllm if "vllm" in name else ()) for name in METHODS]
)
def test_a_killed_worker_and_then_a_killed_driver_change_nothing(
    name: str, models: dict[str, Path], preference_rows: dict[str, str], tmp_path: Path
) -> None:
    recipe = write_recipe(name, tmp_path, models[name], preference_rows)
    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    with running(recipe, whole, log) as process:
        end_well(process, log)
    with running(recipe, cut, log) as process:
        wait_until(lambda: steps_taken(cut) >= KILLED_AT[0], process, log)
        victims = workers_of(process)
        assert len(victims) == 2
        victims[1].kill()
        wait_until(lambda: begun(cut) > 1 and steps_taken(cut) >= KILLED_AT[1], process, log)
        process.kill()
        process.wait(timeout=60)
    with running(recipe, cut, log) as process:
        assert "continues at step" in end_well(process, log)
    expected, found = (trained(store, result(store, name)) for store in (open_store(whole), open_store(cut)))
    assert len({each["loss"] for each in expected[0] if each["kind"] == "train"}) > STEPS // 2
    assert found == expected
    assert found[1]
