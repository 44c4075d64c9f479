"""How often Ray Data looks at its tasks and at the cluster: often enough for parts that take less than a second.

Ray Data (2.60) waits up to 0.1 s for *all* running tasks before it starts the next one, and learns a second late what
the cluster has; until then one task runs. Neither can be set: both are constants of its modules. With parts of a few MB
two workers stood idle for a fifth of the time (benchmarks/curation_two_workers.py).
"""

from __future__ import annotations

TASKS_EVERY_S = 0.02
CLUSTER_EVERY_S = 0.1


def quicken() -> None:
    """Set both for this process.

    Raises:
        AttributeError: Ray has renamed one; a test of ours says so before a user's run does.
    """
    from ray.data._internal.execution import streaming_executor_state as state
    from ray.data._internal.execution.resource_manager import ResourceManager

    for owner, name, seconds in (
        (state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", TASKS_EVERY_S),
        (ResourceManager, "GLOBAL_LIMITS_UPDATE_INTERVAL_S", CLUSTER_EVERY_S),
    ):
        setattr(owner, name, min(seconds, getattr(owner, name)))
