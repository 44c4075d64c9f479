"""Curves in MLflow's own store, where it is installed; it is no dependency."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from cluster.errors import UserError
from pipelines.train.mlflow_log import log_run, require_mlflow

RECORDS = [
    {"kind": "start", "step": 0, "steps": 2500, "workers": 1},
    {"kind": "validation", "step": 0, "loss": 5.0},
    *(
        {
            "kind": "train",
            "step": step,
            "loss": 5.0 - step / 1000,
            "learning_rate": 1e-3,
            "gradient_norm": 1.0,
            "tokens": 10,
            "tokens_per_second": 100.0,
            "mfu": 0.5,
            "memory_bytes": 1 << 20,
        }
        for step in range(1, 2501)
    ),
    {"kind": "event", "step": 2500, "text": "stopped early"},
]


def test_where_it_is_absent_that_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="mlflow is not installed here") as raised:
        require_mlflow("pretrain")
    assert raised.value.where == "pretrain.mlflow" and "mlflow-skinny" in raised.value.next_step


def test_every_curve_is_in_mlflows_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed, and no dependency")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants to be asked for it
    run_id = log_run(RECORDS, f"file:{tmp_path}/runs", "Model/m", {"learning_rate": 1e-3})
    client = mlflow.MlflowClient(tracking_uri=f"file:{tmp_path}/runs")
    history = client.get_metric_history(run_id, "train/loss")
    assert {each.step: each.value for each in history} == {step: 5.0 - step / 1000 for step in range(1, 2501)}
    assert [each.value for each in client.get_metric_history(run_id, "validation/loss")] == [5.0]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "Model/m"
    assert run.data.params == {"learning_rate": "0.001"}
    assert run.data.tags["event.1"] == "step 2,500: stopped early"


def test_a_store_that_cannot_be_used_is_one_message(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed, and no dependency")
    with pytest.raises(UserError, match="the run is finished, but MLflow did not take its curves"):
        log_run(RECORDS, "nonsense://here", "Model/m", {})
