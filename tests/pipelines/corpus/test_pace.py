"""What is set of Ray Data is there to be set, and is what Ray Data reads."""

from __future__ import annotations

import inspect

import pytest

from pipelines.corpus import pace


def test_ray_data_reads_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.execution import streaming_executor_state as state
    from ray.data._internal.execution.resource_manager import ResourceManager

    tasks, cluster = "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", "GLOBAL_LIMITS_UPDATE_INTERVAL_S"
    monkeypatch.setattr(state, tasks, 0.1)
    monkeypatch.setattr(ResourceManager, cluster, 1)
    pace.quicken()
    assert getattr(state, tasks) == pace.TASKS_EVERY_S
    assert getattr(ResourceManager, cluster) == pace.CLUSTER_EVERY_S
    assert f"timeout={tasks}" in inspect.getsource(state.process_completed_tasks)
    assert f"self.{cluster}" in inspect.getsource(ResourceManager.get_global_limits)


def test_what_is_quicker_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.execution import streaming_executor_state as state

    monkeypatch.setattr(state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", 0.001)
    pace.quicken()
    assert state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == 0.001
