"""Searches on a real Ray, by the command: nothing shared is made twice, nothing finished again, and best.yaml runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.artifact import list_artifacts
from cluster.store import Store, open_store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
OVER = ("finished", "stopped")
TINY: dict[str, Any] = {
    "name": "docs-assistant",
    "corpus": {"sources": [{"kind": "jsonl", "path": "docs.jsonl"}]},
    "curate": {"validation_fraction": 0.1},
    "tokenizer": {"vocab_size": 600},
    "tokens": {"sequence_length": 48},
    "pretrain": {
        "hidden": 32,
        "layers": 1,
        "heads": 1,
        "kv_heads": 1,
        "intermediate": 48,
        "steps": 40,
        "batch_sequences": 4,
        "validation_sequences": 8,
        "workers": 1,
    },
}


def write(folder: Path, rows: list[dict[str, str]], tune: dict[str, Any], **pretrain: Any) -> None:
    lines = [json.dumps({"id": row["id"], "text": row["text"]}) for row in rows]
    (folder / "docs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = TINY | {"pretrain": TINY["pretrain"] | pretrain, "tune": tune}
    (folder / "search.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe)


def raymill(folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, f"{out}\n{err}"
    return out, err


def trials(store: Store) -> dict[int, dict[str, Any]]:
    """Every trial's record, by number."""
    found = [json.loads(store.read(item.key)) for item in store.files("tune/") if "/trials/" in item.key]
    return {each["number"]: each for each in found}


def test_the_guide_s_commands(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> None:
    """On a search that trains nothing."""
    space = {"tokens.sequence_length": {"grid": [32, 64]}}
    write(tmp_path, corpus_rows[:30], {"metric": "tokens.train_blocks", "space": space})
    recipe = yaml.safe_load((tmp_path / "search.yaml").read_text(encoding="utf-8"))
    del recipe["pretrain"]
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    shown = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line.partition("#")[0]) for block in shown for line in block.splitlines()]
    assert [words[:2] for words in commands] == [["raymill", "tune"], ["raymill", "run"]]
    out, _ = raymill(tmp_path, *commands[0][1:], "--json")
    result = json.loads(out)
    assert [each["state"] for each in result["trials"]] == ["finished", "finished"]
    assert result["best"] == 1
    store = open_store(str(tmp_path / "raymill-store"))
    before = {each.id: each.record_sha256 for each in list_artifacts(store)}
    assert sorted(each.rpartition("-")[0] for each in before) == [
        "Corpus/corpus",
        "Corpus/curate",
        "Tokenizer/tokenizer",
        "Tokens/tokens",
        "Tokens/tokens",
    ]
    out, err = raymill(tmp_path, *commands[0][1:])
    assert "they are not repeated" in err
    assert "embedded Ray" not in err, "there is nothing to do"
    assert "best: trial 1" in out
    out, _ = raymill(tmp_path, *commands[1][1:])
    assert out.count("cached") == 4
    assert {each.id: each.record_sha256 for each in list_artifacts(store)} == before


def wait_for(process: subprocess.Popen[str], store: Store, condition: Any) -> None:
    """Return when the records fulfil a condition; a search that ends before fails."""
    while not condition(trials(store)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)


RATES = {"pretrain.learning_rate": {"grid": [0.01, 1e-6, 0.003, 3e-6, 0.02, 1e-5]}}
LONG = {"steps": 600, "hidden": 64, "layers": 2, "intermediate": 96, "batch_sequences": 8}
"""Long enough for a trial to be stopped, or its driver killed, while it trains."""


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> None:
    """kill -9 of the driver: finished trials stay untouched, the same are proposed, asha goes on deciding."""
    tune = {"metric": "pretrain.validation_loss", "scheduler": "asha", "space": RATES, "concurrent": 1}
    write(tmp_path, corpus_rows[:60], tune, **LONG)
    store = open_store(str(tmp_path / "raymill-store"))
    process = start(tmp_path, "tune", "search.yaml")
    wait_for(process, store, lambda found: sum(each["state"] in OVER for each in found.values()) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    killed = trials(store)
    over = {number: each for number, each in killed.items() if each["state"] in OVER}
    models = {each.id: each.record_sha256 for each in list_artifacts(store, "Model")}
    out, err = raymill(tmp_path, "tune", "search.yaml", "--json")
    result = json.loads(out)
    assert f"{len(over)} of 6 trials are over since earlier" in err
    after = {each["number"]: each for each in result["trials"]}
    assert {number: after[number] | {"tidied": False} for number in over} == over
    assert [after[n]["values"]["pretrain.learning_rate"] for n in range(6)] == RATES["pretrain.learning_rate"]["grid"]
    assert models.items() <= {each.id: each.record_sha256 for each in list_artifacts(store, "Model")}.items()
    assert {each["state"] for each in after.values()} == set(OVER)
    for rate in (1e-6, 3e-6, 1e-5):
        (trial,) = [each for each in after.values() if each["values"]["pretrain.learning_rate"] == rate]
        assert trial["state"] == "stopped"
        assert trial["tidied"]
        assert len(trial["reports"]) < 5, "long before its end"
    orders = sorted(report["order"] for each in after.values() for report in each["reports"])
    assert orders == list(range(len(orders)))
    finished = [each for each in after.values() if each["state"] == "finished"]
    assert len(store.folders("Model")) == len(finished), "checkpoints of stopped trials are gone"
    best = after[result["best"]]
    assert best["objective"] == min(each["objective"] for each in finished)
    out, _ = raymill(tmp_path, "run", "docs-assistant-best.yaml")
    assert out.count("cached") == 5


@pytest.mark.slow
def test_ways_to_adapt_a_model_are_searched(tmp_path: Path, chat_model: Path) -> None:
    """Trials whose results are of different kinds: an adapter, and a whole model."""
    rows = [{"prompt": f"say {number}", "completion": ("red", "old")[number % 2]} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tuned = {"model": str(chat_model), "data": "rows.jsonl", "steps": 6, "batch_sequences": 8, "workers": 1}
    space = {"finetune.method": {"grid": ["lora", "full"]}, "finetune.learning_rate": {"grid": [1e-6, 3e-3]}}
    tune = {"metric": "finetune.validation.loss", "space": space}
    recipe = {"name": "adapted", "finetune": tuned, "tune": tune}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out, _ = raymill(tmp_path, "tune", "search.yaml", "--json")
    found = json.loads(out)
    losses = {each["number"]: each["objective"] for each in found["trials"]}
    assert len(set(losses.values())) == 4
    assert losses[found["best"]] == min(losses.values())
    store = open_store(str(tmp_path / "raymill-store"))
    kinds = sorted(each.kind for each in list_artifacts(store) if each.name == "finetune")
    assert kinds == ["Adapter", "Adapter", "Model", "Model"]
    out, _ = raymill(tmp_path, "run", "adapted-best.yaml")
    assert out.count("cached") == 2  # the model as it was, and the best of the four


@pytest.mark.slow
def test_ctrl_c_and_trials_that_diverge(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> None:
    rates = {"pretrain.learning_rate": {"grid": [1e30, 0.003]}}
    tune = {"metric": "pretrain.validation.loss", "space": rates, "concurrent": 1}
    write(tmp_path, corpus_rows[:60], tune, max_rollbacks=0, **LONG)
    store = open_store(str(tmp_path / "raymill-store"))
    process = start(tmp_path, "tune", "search.yaml")
    wait_for(process, store, lambda found: len(found) == 2 and len(found[1]["reports"]) >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 of 2 trials are over; the same command goes on with the others" in err
    known = trials(store)[1]["reports"]
    out, _ = raymill(tmp_path, "tune", "search.yaml", "--json")
    failed, finished = json.loads(out)["trials"]
    assert (failed["state"], finished["state"]) == ("failed", "finished")
    assert "learning_rate" in failed["reason"]
    assert finished["reports"][: len(known)] == known
    steps = [each["step"] for each in finished["reports"]]
    assert steps == sorted(set(steps))
    (model,) = list_artifacts(store, "Model")
    lines = map(json.loads, store.read(model.key("metrics.jsonl")).decode().splitlines())
    assert max(each["step"] for each in lines if each["kind"] == "start") > 0, "from its checkpoint"
    rates["pretrain.learning_rate"]["grid"] = [1e30, 1e31]
    write(tmp_path, corpus_rows[:60], tune, max_rollbacks=0, **LONG)
    _, err = raymill(tmp_path, "tune", "search.yaml", code=2)
    assert "all 2 trials failed" in err


@pytest.mark.slow
def test_trials_run_beside_each_other_and_time_ends_them(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> None:
    """A key of the tokenizer: each tokens artifact is made once, though two trials want it at the same time."""
    space = {"tokens.sequence_length": {"grid": [32, 48]}, "pretrain.seed": {"grid": [1, 2]}}
    tune = {"metric": "pretrain.validation.loss", "space": space, "concurrent": 4, "max_seconds": 300}
    write(tmp_path, corpus_rows[:60], tune, steps=10)
    out, err = raymill(tmp_path, "tune", "search.yaml", "--json")
    assert [each["state"] for each in json.loads(out)["trials"]] == ["finished"] * 4
    store = open_store(str(tmp_path / "raymill-store"))
    assert len(list_artifacts(store, "Tokens")) == 2
    for each in list_artifacts(store, "Tokens"):
        assert store.folders(each.id) == [each.attempt], "made once"
    write(tmp_path, corpus_rows[:60], tune | {"max_seconds": 1}, steps=4000)
    out, err = raymill(tmp_path, "tune", "search.yaml", "--json", code=1)
    assert {each["state"] for each in json.loads(out)["trials"]} == {"running"}
    _, err = raymill(
        tmp_path, "tune", "search.yaml", "--set", "pretrain.workers=99", "--set", "tune.max_seconds=900", code=2
    )
    assert "99 workers need 99 CPUs, the cluster has 8" in err or "workers" in err


POPULATION: dict[str, Any] = {
    "metric": "pretrain.validation.loss",
    "scheduler": "pbt",
    "trials": 4,
    "interval_fraction": 0.5,
    "concurrent": 2,
    "space": {"pretrain.learning_rate": {"loguniform": [1e-6, 3e-2]}, "pretrain.weight_decay": {"choice": [0, 0.1]}},
}


def plain(found: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Records without what depends on the machine's speed and on which trial was quicker."""
    left = {}
    for number, each in found.items():
        kept = {name: value for name, value in each.items() if name not in ("seconds", "metrics")}
        left[number] = kept | {"reports": [(report["step"], report["loss"]) for report in each["reports"]]}
    return left


def weights(store: Store, artifact: str) -> dict[str, str]:
    """File -> SHA-256 of a published model's weights."""
    (found,) = [each for each in list_artifacts(store, "Model") if each.id == artifact]
    return {each.path: each.sha256 for each in found.files if each.path.endswith(".safetensors")}


@pytest.mark.slow
def test_a_population_is_killed_repeated_and_run_again_alone(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> None:
    """kill -9 in the second generation: the outcome of a search that was not. A recipe alone gives the same bytes."""
    whole, killed, alone = tmp_path / "whole", tmp_path / "killed", tmp_path / "alone"
    for folder in (whole, killed, alone):
        folder.mkdir()
        write(folder, corpus_rows[:60], POPULATION, steps=90, validation_every_steps=15)
    raymill(whole, "tune", "search.yaml")
    store = open_store(str(whole / "raymill-store"))
    wanted = trials(store)
    assert {each["state"] for each in wanted.values()} == {"finished"}
    assert any(each["takeovers"] for each in wanted.values())
    best = yaml.safe_load((whole / "docs-assistant-best.yaml").read_text(encoding="utf-8"))

    process = start(killed, "tune", "search.yaml")
    other = open_store(str(killed / "raymill-store"))
    wait_for(
        process,
        other,
        lambda found: (
            any(each["generation"] == 1 and each["state"] == "running" for each in found.values())
            and any(each["state"] == "finished" for each in found.values())
        ),
    )
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    out, _ = raymill(killed, "tune", "search.yaml", "--json")
    assert plain(trials(other)) == plain(wanted)
    for each in wanted.values():
        artifact = each["artifacts"]["pretrain"]
        assert weights(store, artifact)
        assert weights(store, artifact) == weights(other, artifact)
        assert other.folders(artifact) == [next(a.attempt for a in list_artifacts(other, "Model") if a.id == artifact)]
    left = {"/".join(item.key.split("/")[:2]) for item in other.files("Model/")}
    assert left == {each["artifacts"]["pretrain"] for each in wanted.values()}, "what was given up is gone"

    result = json.loads(out)
    changed = [each for each in wanted.values() if each["changes"]]
    chosen = wanted[result["best"]]
    assert best["pretrain"].get("changes", []) == chosen["changes"]
    out, _ = raymill(killed, "run", "docs-assistant-best.yaml")
    assert out.count("cached") == 5
    # Alone, in a store that knows nothing of the search: a member with changes, and the best.
    for each in (chosen, changed[0]):
        recipe = {name: value for name, value in best.items() if name != "store"}
        section = {key: value for key, value in recipe["pretrain"].items() if key != "changes"}
        section |= {key.partition(".")[2]: value for key, value in each["values"].items()}
        recipe["pretrain"] = section | ({"changes": each["changes"]} if each["changes"] else {})
        (alone / "one.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        raymill(alone, "run", "one.yaml")
        artifact = each["artifacts"]["pretrain"]
        assert weights(open_store(str(alone / "raymill-store")), artifact) == weights(store, artifact)
