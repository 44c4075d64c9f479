"""The controller's side of a rollout: what gateways saw goes in, and what it decides becomes a version of the state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from serving.control import changes
from serving.control.journal import Journal
from serving.control.state import ServingState
from serving.gateway.observation import Feedback, GatewayReport, Observation
from serving.gateway.table import VariantRoute

if TYPE_CHECKING:
    from serving.rollout.run import Action, RolloutRun

MOST_KEPT = 200_000
"""Observations that wait while the store cannot be written; beyond it the oldest go."""


class RolloutDriver:
    """Runs the state's rollout, if any. A new one, after the controller was killed, goes on from the store."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._run: RolloutRun | None = None
        self._id = ""
        self._observations: list[Observation] = []
        self._feedback: list[Feedback] = []
        self.summary: dict[str, Any] = {}

    def take(self, reports: Iterable[GatewayReport]) -> None:
        """Keep what gateways saw for the next step."""
        for report in reports:
            self._observations.extend(report.observations)
            self._feedback.extend(report.feedback)
        del self._observations[:-MOST_KEPT]
        del self._feedback[:-MOST_KEPT]

    async def step(self, state: ServingState, routes: Mapping[str, VariantRoute]) -> ServingState | None:
        """Let the rollout look at what has come since the last step; the state that it made, if it decided.

        Args:
            routes: how variants are reached now: nobody is moved to one that has no engine.

        Raises:
            RaymillError, OSError: the store cannot be used; nothing is lost, the next step tries again.
        """
        # what comes during the thread's work goes to new lists, so that none of it is lost
        observations, self._observations = self._observations, []
        feedback, self._feedback = self._feedback, []
        if state.rollout is None:
            self._run, self._id, self.summary = None, "", {}
            return None
        try:
            run = self._run = await asyncio.to_thread(self._opened, state)
        except BaseException:
            self._observations[:0], self._feedback[:0] = observations, feedback
            raise
        return await asyncio.to_thread(self._step, run, state, observations, feedback, ready_variants(state, routes))

    def _opened(self, state: ServingState) -> RolloutRun:
        from serving.rollout.run import RolloutRun

        assert state.rollout is not None
        if self._run is not None and self._id == state.rollout.id:
            return self._run
        run = RolloutRun.open(self._journal.store, self._journal.name, state)
        self._id = state.rollout.id
        return run

    def _step(
        self,
        run: RolloutRun,
        state: ServingState,
        observations: list[Observation],
        feedback: list[Feedback],
        ready: set[str],
    ) -> ServingState | None:
        if observations or feedback:
            run.observe(observations, feedback)
        action = run.tick(time.time(), state, ready)
        self.summary = run.summary()
        return self._apply(action) if action is not None else None

    def _apply(self, action: Action) -> ServingState:
        rollout_id = self._id
        return self._journal.change(
            lambda state: changes.moved_by_rollout(state, rollout_id, action.weights, action.status),
            by=f"rollout {rollout_id}",
            reason=action.reason,
        )


def ready_variants(state: ServingState, routes: Mapping[str, VariantRoute]) -> set[str]:
    """Variants whose own engine answers; one that still answers by its previous engine is not among them."""
    return {
        name
        for name, route in routes.items()
        if route.addresses and name in state.variants and route.engine_model == state.variants[name].engine_model
    }
