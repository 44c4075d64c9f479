"""From what is wanted and what runs to what is to be done about engines. Pure: no Ray, no clock of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cluster.errors import RaymillError, UserError
from serving.config import replica_bounds
from serving.control.scaling import Bounds
from serving.control.state import EngineState, ServingState

FIRST_PAUSE_S, LONGEST_PAUSE_S = 20.0, 600.0


@dataclass(frozen=True)
class Application:
    """An engine's Serve application as Serve has it.

    Attributes:
        status: Serve's word: DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY, DELETING.
        target: replicas that it should have.
        message: what Serve says of it.
        replicas: the replicas that it has, in whatever state.
        leaving: the actors of those that Serve has told to end.
    """

    engine: str
    status: str
    target: int
    message: str = ""
    replicas: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Failure:
    """An engine that did not come up.

    Attributes:
        at: when it failed, on the clock of ``now``.
        count: how often in a row.
    """

    error: RaymillError
    at: float
    count: int = 1

    def may_retry(self, now: float) -> bool:
        """Whether it is worth another try: after a growing pause, but not where vLLM refuses the model."""
        if isinstance(self.error, UserError):
            return False
        return now - self.at >= min(FIRST_PAUSE_S * 2 ** (self.count - 1), LONGEST_PAUSE_S)


@dataclass(frozen=True)
class Steps:
    """What to do now.

    Attributes:
        start: engines without an application.
        remove: engines whose application is to go.
    """

    start: tuple[EngineState, ...]
    remove: tuple[str, ...]


def plan_steps(
    state: ServingState,
    applications: Mapping[str, Application],
    in_use: Collection[str],
    failures: Mapping[str, Failure],
    now: float,
) -> Steps:
    """What is to be started and removed.

    Args:
        applications: engine -> its application.
        in_use: engines that must stay, see :func:`serving.control.routes.engines_in_use`.
        failures: engine -> why it is down.
    """
    down = {name for name, failure in failures.items() if not failure.may_retry(now)}
    start = [each for name, each in state.engines.items() if name not in applications and name not in down]
    failed = {name for name, each in applications.items() if name in failures and each.status != "RUNNING"}
    remove = [
        name
        for name, each in applications.items()
        if (name not in in_use or name in failed) and each.status != "DELETING"
    ]
    return Steps(tuple(start), tuple(remove))


def bounds_of(state: ServingState, engine: EngineState) -> Bounds:
    """How far an engine may scale; those of a rollout under way never sleep."""
    least, most = replica_bounds(engine.config.replicas)
    rollout = state.rollout
    if rollout is not None and rollout.active:
        pair = (rollout.config.baseline, rollout.config.candidate)
        if engine.name in {each.engine for each in state.variants.values() if each.name in pair}:
            least = max(least, 1)
    target = engine.config.target_ongoing or engine.config.max_num_seqs
    return Bounds(least, most, target, engine.config.idle_seconds)


def first_target(engine: EngineState) -> int:
    """Replicas to start with: one at least, so that a model that cannot start shows it now."""
    return max(1, replica_bounds(engine.config.replicas)[0])
