"""The stage from rows in a file to an artifact with its report, its training in this process instead of Ray's."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from pipelines.align import generation
from pipelines.align.config import AlignConfig, align_stage
from pipelines.headlines import headline
from pipelines.train import launch
from pipelines.tune.reported import reported
from tests.pipelines.one_process import train_here

SMALL = {"steps": 4, "batch_sequences": 4, "rank": 4, "alpha": 8, "learning_rate": 5e-3, "workers": 1}


BY_TOKEN = "KL divergence from the reference, by token"


def curves(page: str) -> dict[str, dict[str, int]]:
    """Title of each chart that has lines -> name of a line -> its points."""
    found: dict[str, dict[str, int]] = {}
    for title, chart in re.findall(r'<svg [^>]*aria-label="([^"]*)">(.*?)</svg>', page, re.DOTALL):
        lines = re.findall(r'<polyline [^>]*points="([^"]*)"><title>([^<]*)</title>', chart)
        found[html.unescape(title)] = {name: len(points.split()) for points, name in lines}
    return found


@pytest.fixture
def make(
    store: Store, chat_model: Path, publish_model: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Artifact]:
    """Runs the stage on the tiny chat model."""
    monkeypatch.setattr(launch, "run_training", train_here)
    base = publish_model(store, chat_model, "Model", "pretrain")

    def run(**fields: Any) -> Artifact:
        config = AlignConfig.model_validate(SMALL | fields)
        stage = align_stage(config)
        identity = identify(stage, config, {"model": base.fingerprint})
        with Progress().track("align") as tracker:
            return execute(stage, identity, config, {"model": base}, store, tracker).artifact

    return run


@pytest.fixture
def rows(tmp_path: Path, preference_rows: dict[str, str]) -> Path:
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(preference_rows.values()))
    return path


def test_pairs_become_a_model_with_curves_and_held_out_accuracy(make: Any, rows: Path, store: Store) -> None:
    made = make(method="dpo", data=str(rows))
    assert made.kind == "Model"
    assert made.counts["pairs"] == 32
    assert made.metrics["validation.accuracy_before"] == 0.5
    assert made.metrics["validation.accuracy"] >= 0.5
    assert made.metrics["validation.kl_per_token"] > 0
    assert "validation.perplexity" not in made.metrics
    assert set(made.metrics) == set(reported(AlignConfig(method="dpo")))  # what a search may be for
    assert "preference accuracy" in headline(made)
    lines = [json.loads(line) for line in store.read(made.key("metrics.jsonl")).decode().splitlines()]
    steps = [each for each in lines if each["kind"] == "train"]
    assert [each["step"] for each in steps] == [1, 2, 3, 4]
    assert {"loss", "accuracy", "margin", "kl_per_token", "entropy"} <= steps[0].keys()
    page = store.read(made.key("report.html")).decode()
    assert "Held-out examples" in page
    drawn = curves(page)
    for title in ("loss", "accuracy of preferences", "margin of rewards", BY_TOKEN):
        assert drawn[title] == {"training": 4, "validation": 5}, title
    assert "reward" not in drawn and "length of answers" not in drawn  # nothing is paid, and no answer is written
    held_out = store.read(made.key("rows/validation.jsonl")).decode().splitlines()
    assert len(held_out) == 32 - len(store.read(made.key("rows/train.jsonl")).decode().splitlines()) > 0


def test_a_reward_model_pays_by_its_id(make: Any, rows: Path, store: Store) -> None:
    judge = make(method="reward", data=str(rows))
    assert judge.kind == "RewardModel"
    paid = make(method="ppo", data=str(rows), reward=judge.id, answer_tokens=5)
    assert paid.kind == "Model"
    assert set(judge.metrics) == set(reported(AlignConfig(method="reward")))
    assert set(paid.metrics) == set(reported(AlignConfig(method="ppo", reward="a:b")))
    assert paid.inputs["reward"].id == judge.id
    assert paid.details["generation"] == "transformers"
    assert {"validation.reward", "validation.kl", "validation.length_before"} <= paid.metrics.keys()
    assert "reward" in headline(paid)
    drawn = curves(store.read(paid.key("report.html")).decode())
    for title in ("reward", "length of answers", "KL divergence from the reference", BY_TOKEN):
        assert drawn[title] == {"training": 4, "validation": 5}, title
    assert drawn["surrogate loss"] == {"training": 4}
    judged = curves(store.read(judge.key("report.html")).decode())
    assert "accuracy of preferences" in judged and BY_TOKEN not in judged  # it has no reference
    assert not any("value_head" in entry.path for entry in paid.files)
    with pytest.raises(UserError, match="is a Model, not a RewardModel"):
        make(method="ppo", data=str(rows), reward=paid.id)
    with pytest.raises(UserError, match="is not in the store"):
        make(method="ppo", data=str(rows), reward="RewardModel/align-0123456789ab")


def test_answers_that_vllm_cannot_write_are_refused_before_anything_starts(
    make: Any, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a model that only the store knew: its class is looked at as soon as it is there."""
    monkeypatch.setattr(generation, "installed", lambda name: True)
    monkeypatch.setattr(generation, "served_classes", lambda: frozenset({"GPT2LMHeadModel"}))
    with pytest.raises(UserError, match="installed here has no LlamaForCausalLM"):
        make(method="grpo", data=str(rows), reward="a:b", generation="vllm")


def test_its_own_template_goes_with_the_model(make: Any, rows: Path, store: Store) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    made = make(method="simpo", data=str(rows), chat_template=template)
    assert set(made.metrics) == set(reported(AlignConfig(method="simpo")))
    settings = json.loads(store.read(made.key("tokenizer_config.json")))
    assert settings["chat_template"] == template
