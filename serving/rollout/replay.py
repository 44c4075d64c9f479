"""The same fold over recorded events, offline: after a restart, and to check a rollout years later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from cluster.errors import UserError
from cluster.store import Store
from serving.rollout.config import RolloutConfig
from serving.rollout.decision import Decision
from serving.rollout.events import Event, EventLog, Recorded, events_folder, rollouts_folder
from serving.rollout.machine import Machine
from serving.rollout.units import MAX_SEEN, recorded_key


@dataclass(frozen=True)
class Folded:
    """What events give.

    Attributes:
        machine: after the last of them.
        units: keys of the units of the step that runs, which must not count again; as many as are remembered.
        seen: the last state of the deployment that was recorded; None before the first.
        ended: whether everything was done.
        at: when the last of them was; 0 where there is none.
    """

    machine: Machine
    units: set[str]
    seen: Event | None
    ended: bool
    at: float


@dataclass(frozen=True)
class Replayed:
    """Decisions recomputed from a rollout's events, beside those that were recorded when they were made.

    Attributes:
        damaged: files of events that could not be read; what was in them is missing here.
    """

    config: RolloutConfig
    decisions: tuple[Decision, ...]
    recorded: tuple[Decision, ...]
    damaged: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every decision came out as recorded, with every number."""
        return self.decisions == self.recorded

    @property
    def differences(self) -> list[int]:
        """Numbers of the decisions that came out differently, or on one side only."""
        longest = max(len(self.decisions), len(self.recorded))
        return [i + 1 for i in range(longest) if self.decisions[i : i + 1] != self.recorded[i : i + 1]]


def fold(
    config: RolloutConfig, events: Iterable[Event], on_event: Callable[[Event, Machine], None] | None = None
) -> Folded:
    """Fold events from the first one.

    Args:
        on_event: called after each, with the machine as it then is.
    """
    machine = Machine(config)
    units: set[str] = set()
    seen: Event | None = None
    ended, at = False, 0.0
    for event in events:
        at = float(event["at"])
        experiment = machine.experiments
        machine.apply(event)
        if machine.experiments != experiment:
            units = set()
        if event["kind"] == "units":
            units.update(islice(map(recorded_key, event["units"]), max(MAX_SEEN - len(units), 0)))
        elif event["kind"] == "state":
            seen = event
        ended |= event["kind"] == "end"
        if on_event is not None:
            on_event(event, machine)
    return Folded(machine, units, seen, ended, at)


def read_events(store: Store, deployment: str, rollout: str) -> tuple[RolloutConfig, Recorded]:
    """A rollout's settings and events.

    Raises:
        UserError: there is no such rollout, or its first file is damaged.
    """
    recorded = EventLog(store, deployment, rollout).read()
    first = next(recorded.events, None)
    if not recorded.files:
        known = ", ".join(rollout_ids(store, deployment)) or "none yet"
        raise UserError(
            f"no rollout {rollout!r} is recorded", where=f"deployment {deployment}", next_step=f"rollouts: {known}"
        )
    if first is None or first["kind"] != "start":
        raise UserError(
            "its first file of events is damaged",
            where=store.uri(events_folder(deployment, rollout)),
            next_step="put it back from a copy of the store",
        )
    return RolloutConfig.model_validate(first["config"]), recorded


def rollout_ids(store: Store, deployment: str) -> list[str]:
    """Every recorded rollout of a deployment, oldest first: ids end in the version that began them."""
    names = store.folders(rollouts_folder(deployment))
    return sorted(names, key=lambda name: (int(tail) if (tail := name.rpartition("-")[2]).isdigit() else 0, name))


def replay_recorded(store: Store, deployment: str, rollout: str) -> Replayed:
    """Recompute a rollout's decisions and lay them beside the recorded ones.

    Raises:
        UserError: there is no such rollout, or its first file is damaged.
    """
    config, recorded = read_events(store, deployment, rollout)
    made: list[Decision] = []

    def keep(event: Event, _: Machine) -> None:
        if event["kind"] == "decision":
            made.append(Decision.decode(event["decision"]))

    folded = fold(config, recorded.events, keep)
    return Replayed(
        config,
        tuple(folded.machine.decisions),
        tuple(made),
        tuple(recorded.damaged),
    )
