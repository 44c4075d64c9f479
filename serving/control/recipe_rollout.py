"""The rollout that a recipe names, when the recipe is served: it begins by itself, or says what it waits for.

An endpoint is up for its callers, not for a rollout: one that cannot begin never keeps an endpoint from serving, since
its candidate has no users until then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import UserError
from cluster.store import Store
from serving.control import operations
from serving.control.journal import Journal
from serving.control.redeploy import answers
from serving.control.state import ServingState
from serving.rollout.config import RolloutConfig
from serving.rollout.gate import GateClosed, required_decision
from serving.rollout.plan import plan_sentence

REASON = "serving.rollout in the recipe"


@dataclass(frozen=True)
class RecipeRollout:
    """A rollout that is to begin.

    Attributes:
        decision: the evaluation's that allows it; empty where none is required.
        closed: why no evaluation allows it yet; None where one does.
    """

    config: RolloutConfig
    decision: str
    closed: GateClosed | None

    @classmethod
    def of(
        cls, config: RolloutConfig | None, store: Store, latest: ServingState | None, fresh: ServingState
    ) -> RecipeRollout | None:
        """The rollout that is to begin; None where there is none, or where it runs or ran with these models.

        Args:
            latest: what was wanted last under this name.
            fresh: what the recipe makes by itself.

        Raises:
            UserError: it could never begin, whatever an evaluation says.
        """
        if config is None:
            return None
        done = latest.rollout if latest is not None and answers(latest) == answers(fresh) else None
        if done is not None and done.config == config:
            return None  # one that was rolled back does not begin again by itself
        try:
            return cls(config, required_decision(store, fresh, config), None)
        except GateClosed as closed:
            return cls(config, "", closed)

    def start(self, journal: Journal, by: str, say: Callable[[str], None]) -> ServingState | None:
        """Begin it, and return the state that it made; None where it cannot begin now, which is said."""
        if self.closed is not None:
            self._say(self.closed, say)
            return None
        try:
            state = operations.start_rollout(journal, self.config, self.decision, by=by, reason=REASON)
        except UserError as error:
            running = journal.current().rollout
            if running is None or not running.active or running.config != self.config:
                self._say(error, say)
            return None  # or somebody has begun it by hand meanwhile
        say(plan_sentence(self.config))
        return state

    def _say(self, error: UserError, say: Callable[[str], None]) -> None:
        say(f"the rollout of {self.config.candidate} does not begin yet: {error.what}")
        if error.next_step:
            say(f"  {error.next_step}")
        say("  then start it with `raymill rollout start --recipe RECIPE`; until then its candidate has no users")
