"""Where evaluation and serving meet without knowing each other: a real gate's decision lets a real rollout begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.store_local import LocalStore
from pipelines.cli import run_command
from serving.config import ServingConfig
from serving.control.journal import Journal
from serving.control.state import ModelSource
from serving.engines.plan import VariantSource, initial_state

from .evals.decide.conftest import changed, coin, publish_evaluation, publish_model, write_evaluation

START = ["rollout", "start", "--candidate", "tuned", "--baseline", "base"]


@pytest.fixture
def served(store: LocalStore, tmp_path: Path) -> dict[str, str]:
    """Two models, evaluated, and a deployment of both."""
    base = coin(1, 1000, 0.5)
    models = {}
    for name, values in (("pretrain", base), ("finetune", changed(base, 60, 30))):
        model = publish_model(store, name)
        folder = write_evaluation(tmp_path / name, {"arc_easy": {"arc_easy": values}}, model=model.id)
        publish_evaluation(store, folder, f"evals-{name}", model)
        models[name] = model.id
    variants = {"base": models["pretrain"], "tuned": models["finetune"]}
    config = ServingConfig.model_validate(
        {"variants": [{"name": name, "model": model} for name, model in variants.items()]}
    )
    sources = {name: VariantSource(ModelSource(artifact=model)) for name, model in variants.items()}
    Journal(store, "docs").create(initial_state(config, sources, name="docs", by="me", now=1.0))
    return models


def test_a_pass_opens_the_rollout_and_a_newer_failure_shuts_it(
    served: dict[str, str], store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--store", store.url]
    assert run_command([*START, *at]) == 2
    assert "no evaluation decision lets" in capsys.readouterr().err
    assert run_command(["gate", "finetune", "pretrain", "--not-worse", "arc_easy=0.02", *at]) == 0
    decision = capsys.readouterr().out.partition("decision ")[2].strip()
    assert run_command([*START, "--dry-run", *at]) == 0
    assert f"evaluation decision {decision} says pass" in capsys.readouterr().out
    assert run_command(["gate", "finetune", "pretrain", "--target", "arc_easy.acc >= 0.9", *at]) == 1
    capsys.readouterr()
    assert run_command([*START, *at]) == 2
    assert (
        "the evaluation says that the candidate must not replace the baseline: arc_easy.acc" in capsys.readouterr().err
    )
    assert run_command([*START, "--gate", decision, *at]) == 0
    state = Journal(store, "docs").current()
    assert state.rollout is not None
    assert state.rollout.decision == decision


def test_no_evidence_and_the_other_way_round_do_not(
    served: dict[str, str], store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--store", store.url]
    assert run_command(["gate", "pretrain", "finetune", "--not-worse", "arc_easy=0.2", *at]) == 0
    assert run_command([*START, *at]) == 2
    assert run_command(["gate", "finetune", "pretrain", "--target", "arc_easy.acc >= 0.51", *at]) == 4
    capsys.readouterr()
    assert run_command([*START, *at]) == 2
    assert "no evidence either way: arc_easy.acc" in capsys.readouterr().err
