"""A rollout as the controller runs it: requests in, wanted changes out, everything recorded before it takes effect.

All that matters is in the store. Opening a rollout folds what was recorded, so that a controller that was killed goes
on where the last one stopped; only units that were still open are lost, on both sides alike.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.errors import InfraError, RaymillError, UserError
from cluster.store import Store
from serving.control.journal import Journal
from serving.control.state import RolloutState, RolloutStatus, ServingState
from serving.gateway.observation import Feedback, Observation
from serving.rollout.config import RolloutConfig
from serving.rollout.events import HEARTBEAT_SECONDS, PENDING_UNITS, Event, EventLog, Overtaken
from serving.rollout.gate import model_of, required_decision
from serving.rollout.machine import ENDED, Machine, pair_share
from serving.rollout.plan import plan_rollout, plan_sentence
from serving.rollout.record import publish_record
from serving.rollout.replay import fold
from serving.rollout.summary import summarise
from serving.rollout.units import Collector

MISSED_VERSIONS = 200
RETRY_SECONDS = 30.0
AWAY_SECONDS = 30.0
"""Longer between two ticks is time that nobody observed: no time of the step."""
_SAME = 1e-9
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Action:
    """What the rollout wants of the deployment.

    Attributes:
        weights: new weights of the pair, the other variants' stay; None where they are right.
        status: the rollout's new status; None where it stays.
        reason: why, for the journal.
    """

    weights: dict[str, float] | None
    status: RolloutStatus | None
    reason: str


class RolloutRun:
    """See the module's text; made by :meth:`open`. Not safe to call from several threads at once."""

    def __init__(self, store: Store, deployment: str, rollout: RolloutState) -> None:
        self.store = store
        self.deployment = deployment
        self.rollout = rollout
        self.config: RolloutConfig = rollout.config
        self.log = EventLog(store, deployment, rollout.id)
        self.machine = Machine(self.config)
        self.collector = Collector(self.config)
        self.damaged: list[str] = []
        self.done = False
        self._journal = Journal(store, deployment)
        self._seen: Event | None = None
        self._seen_version = 0
        self._publish_again = float("-inf")
        self._now = 0.0
        self._recorded_at = 0.0

    @classmethod
    def open(cls, store: Store, deployment: str, state: ServingState) -> RolloutRun:
        """The state's rollout, as far as it was recorded.

        Raises:
            UserError: the state has no rollout, or a newer Raymill recorded it.
            InfraError: the store cannot be read.
        """
        if state.rollout is None:
            raise UserError("no rollout was started", where=f"deployment {deployment}", next_step="`rollout start`")
        run = cls(store, deployment, state.rollout)
        run._load(state)
        return run

    def observe(self, observations: Iterable[Observation], feedback: Iterable[Feedback]) -> None:
        """Take what gateways saw since the last time."""
        self.collector.observe(observations)
        self.collector.report(feedback)

    def tick(self, now: float, state: ServingState, ready: Collection[str] | None = None) -> Action | None:
        """Look at the deployment and at what came in; what is to be changed, if anything.

        The same action is given again and again until the state shows it.

        Args:
            now: seconds since the epoch.
            state: the newest.
            ready: variants that an engine answers for; by default all. Users move only to these, no step passes and
                nothing is promoted while the candidate is not among them; a rollback waits for nobody.

        Raises:
            InfraError, OSError: the store cannot be written; nothing is lost, and nothing is decided until it can.
        """
        before, self._now = self._now, now
        if self.done or state.rollout is None or state.rollout.id != self.rollout.id:
            return None
        try:
            if self.machine.version is not None and now - before > AWAY_SECONDS:
                self._fold({"kind": "away", "at": now, "seconds": now - before})
            self._look(now, state)
            self._wait(now, state, state.variants if ready is None else ready)
            self._close_units(now)
            if self.log.due(now):
                self.log.write(now)
            if state.rollout.status in ENDED:
                self._finish(now)
                return None
        except Overtaken as other:
            _log.warning("another controller runs this rollout as well, its events count: %s", other)
            self._load(state)
            return None
        return self._action(state)

    def summary(self) -> dict[str, Any]:
        """Where the rollout stands, as plain JSON values for the deployment's status."""
        return summarise(
            self.rollout.id,
            self.machine,
            self._now,
            open_units=self.collector.open,
            damaged=self.damaged,
        )

    def _load(self, state: ServingState) -> None:
        """Everything from the store; a rollout that begins is recorded as such."""
        recorded = self.log.read()
        self.damaged = []
        self.collector = Collector(self.config)
        if not recorded.files:
            self.machine = Machine(self.config)
            self._seen, self._seen_version = None, state.version - 1
            first = self._first_version(state)
            self._end_earlier(first)
            self._fold(self._start(first))
            return
        folded = fold(self.config, recorded.events)
        self.damaged = recorded.damaged
        self.machine, self._seen, self.done = folded.machine, folded.seen, folded.ended
        self._seen_version = int(folded.seen["version"]) if folded.seen else state.version - 1
        self._now = self._recorded_at = folded.at
        self.collector.begin(self.machine.version)
        self.collector.known(folded.units)

    def _first_version(self, state: ServingState) -> ServingState:
        """The version that began the rollout, which its id ends in; the given one where it cannot be read."""
        number = self.rollout.id.rpartition("-")[2]
        if number.isdigit() and 0 < int(number) < state.version:
            try:
                first = self._journal.read(int(number))
            except UserError:
                return state
            if first.rollout is not None and first.rollout.id == self.rollout.id:
                return first
        return state

    def _end_earlier(self, first: ServingState) -> None:
        """Record the rollout before this one, if it ended while no controller looked."""
        try:
            last = self._journal.read(first.version - 1)
            if last.rollout is not None and last.rollout.id != self.rollout.id:
                RolloutRun.open(self.store, self.deployment, last).tick(last.changed_at, last)
        except UserError as error:
            _log.warning("the rollout before %s has no record: %s", self.rollout.id, error)

    def _start(self, state: ServingState) -> Event:
        assert state.rollout is not None
        refusal = ""
        try:
            decision = required_decision(self.store, state, self._gated())
        except InfraError:
            raise
        except RaymillError as error:
            decision, refusal = "", f"no request may reach the candidate: {error.what}"
        return {
            "kind": "start",
            "at": state.changed_at,
            "by": state.changed_by,
            "why": plan_sentence(self.config),
            "refusal": refusal,
            "config": self.config.model_dump(mode="json"),
            "decision": decision,
            "plan": asdict(plan_rollout(self.config)),
            "weights": self._pair(self.rollout.before or state.weights),
            "models": {name: str(model_of(state, name)) for name in (self.config.baseline, self.config.candidate)},
        }

    def _gated(self) -> RolloutConfig:
        """The settings with the very decision that the rollout was started with."""
        return self.config.model_copy(update={"gate": self.rollout.decision}) if self.rollout.decision else self.config

    def _pair(self, weights: Mapping[str, float]) -> dict[str, float]:
        return {name: float(weights.get(name, 0.0)) for name in (self.config.baseline, self.config.candidate)}

    def _fold(self, event: Event) -> None:
        """Fold an event and keep it, with what it decides, for the next write."""
        known, experiment = len(self.machine.decisions), (self.machine.experiments, self.machine.version)
        self.machine.apply(event)
        self.log.add(event)
        self._recorded_at = event["at"]
        for decision in self.machine.decisions[known:]:
            self.log.add({"kind": "decision", "at": decision.at, "decision": decision.encode()})
        if (self.machine.experiments, self.machine.version) != experiment:
            self.collector.begin(self.machine.version)

    def _look(self, now: float, state: ServingState) -> None:
        """Record what changed for the rollout, version by version, so that each change has its own author."""
        if state.version <= self._seen_version:
            return
        first = max(self._seen_version + 1, state.version - MISSED_VERSIONS)
        for version in range(first, state.version):
            try:
                self._see(now, self._journal.read(version))
            except UserError:
                continue  # gone or damaged: the state that follows it says where that led
        self._see(now, state)
        self._seen_version = state.version

    def _see(self, now: float, state: ServingState) -> None:
        rollout = state.rollout
        if rollout is None or rollout.id != self.rollout.id:
            return
        shares = state.allocation().shares()
        candidate, baseline = shares.get(self.config.candidate, 0.0), shares.get(self.config.baseline, 0.0)
        event: Event = {
            "kind": "state",
            "at": now,
            "version": state.version,
            "status": rollout.status,
            "weights": self._pair(state.weights),
            "candidate_share": candidate / (candidate + baseline) if candidate + baseline else 0.0,
            "by": state.changed_by,
            "reason": state.reason,
        }
        if self._seen is None or any(
            event[name] != self._seen[name] for name in ("status", "weights", "candidate_share")
        ):
            self._seen = event
            self._fold(event)

    def _wait(self, now: float, state: ServingState, ready: Collection[str]) -> None:
        """Record whether the step waits for an engine, when that changes: replaying must know it."""
        if self.machine.status != "running" or self._seen is None:
            return
        needed = [self.config.candidate]
        if self.machine.phase not in ("comparing", "baking"):
            wanted = self._weights(state.weights) or {}
            needed = [name for name, weight in wanted.items() if weight > state.weights.get(name, 0.0)]
        waits_for = next((name for name in needed if name not in ready), "")
        share = self._seen["candidate_share"]
        if waits_for != self.machine.waits_for or (self.machine.unwatched and share > 0):
            version = state.version
            self._fold({"kind": "waits", "at": now, "for": waits_for, "version": version, "candidate_share": share})

    def _close_units(self, now: float) -> None:
        if self.machine.version is None or self.log.pending_units >= PENDING_UNITS:
            return
        units = self.collector.close(now)
        if units or self.machine.due(now) or now - self._recorded_at >= HEARTBEAT_SECONDS:
            values = [unit.encode() for unit in units]
            self._fold({"kind": "units", "at": now, "units": values, "excluded": self.collector.take_excluded()})

    def _action(self, state: ServingState) -> Action | None:
        if state.rollout is None or state.rollout.status != "running":
            return None
        status = self.machine.status if self.machine.status in ENDED else None
        weights = self._weights(state.weights)
        if status is None and (weights is None or self.machine.waits_for):
            return None
        return Action(weights, status, self.machine.decisions[-1].why)

    def _weights(self, now: Mapping[str, float]) -> dict[str, float] | None:
        """The pair's wanted weights, which add up to what they do now; None where they are so already."""
        target = self.machine.target
        share = pair_share(now, self.config)
        if target is None or (share is not None and abs(share - target) < _SAME):
            return None
        total = sum(self._pair(now).values()) or sum(self._pair(self.rollout.before).values()) or 100.0
        candidate = total * target / 100
        return {self.config.baseline: total - candidate, self.config.candidate: candidate}

    def _finish(self, now: float) -> None:
        """Publish the record of a rollout that has ended, once."""
        if now < self._publish_again or self.machine.status not in ENDED:
            return
        self._publish_again = now + RETRY_SECONDS
        if self.log.pending:
            self.log.write(now)
        artifact = publish_record(self.store, self.deployment, self.rollout)
        self.log.add({"kind": "end", "at": now, "record": artifact.id})
        self.log.write(now)
        self.done = True
