"""The artifact that a rollout leaves: its decisions with their numbers, and a page to look at."""

from __future__ import annotations

import time

from cluster.artifact import Artifact, Identity, InputEntry, load_artifact
from cluster.attempt import Attempt
from cluster.stage import provenance
from cluster.store import Store
from serving.control.state import RolloutState
from serving.rollout.events import Event
from serving.rollout.machine import Machine
from serving.rollout.page import Timeline, render
from serving.rollout.replay import fold, read_events
from serving.rollout.units import SIDES

KIND = "RolloutRecord"
VERSION = 1


def record_identity(store: Store, deployment: str, rollout: RolloutState, start: Event) -> Identity:
    """What the record is: this rollout of this deployment, with what it was decided on."""
    parents = _parents(store, start)
    return Identity(
        KIND,
        deployment,
        VERSION,
        {"rollout": rollout.id, "started": start["at"], "settings": start["config"], "models": start["models"]},
        {role: artifact.fingerprint for role, artifact in parents.items()},
    )


def publish_record(store: Store, deployment: str, rollout: RolloutState) -> Artifact:
    """Publish a rollout that has ended; again gives what is published.

    Raises:
        UserError: its events cannot be read.
        InfraError: the store cannot be written.
    """
    began = time.time()
    config, recorded = read_events(store, deployment, rollout.id)
    start = next(recorded.events)
    identity = record_identity(store, deployment, rollout, start)
    published = load_artifact(store, identity.id)
    if published is not None:
        return published
    timeline = Timeline()
    machine = fold(config, recorded.events, timeline.follow).machine
    parents = _parents(store, start)
    with Attempt(store, identity.id) as attempt:
        decisions = [decision.encode() for decision in machine.decisions]
        attempt.write_json("decisions.json", {"rollout": rollout.id, "start": start, "decisions": decisions})
        attempt.write_text("report.html", render(deployment, rollout.id, start, machine, timeline))
        return attempt.publish(
            Artifact(
                kind=identity.kind,
                name=identity.name,
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                inputs={role: InputEntry(id=each.id, fingerprint=each.fingerprint) for role, each in parents.items()},
                attempt=attempt.name,
                files=attempt.seal(),
                counts=_counts(machine),
                details={
                    "rollout": rollout.id,
                    "candidate": config.candidate,
                    "baseline": config.baseline,
                    "outcome": machine.status,
                    "why": machine.decisions[-1].why,
                    "damaged": recorded.damaged,
                },
                provenance=provenance(began),
            )
        )


def _counts(machine: Machine) -> dict[str, int]:
    """Units and requests of every step together, by side."""
    by_step = {}
    for decision in machine.decisions:
        by_step[decision.step] = decision.sides
    return {
        f"{side}.{what}": sum(sides[side].get(what, 0) for sides in by_step.values() if sides)
        for side in SIDES
        for what in ("units", "requests", "errors", "retried", "fallback", "gave_up")
    }


def _parents(store: Store, start: Event) -> dict[str, Artifact]:
    """The models and the evaluation decision, as far as they are artifacts of the store."""
    names = {
        "candidate": start["models"][start["config"]["candidate"]],
        "baseline": start["models"][start["config"]["baseline"]],
        "decision": start["decision"],
    }
    found = {role: load_artifact(store, name) for role, name in names.items() if _is_id(name)}
    return {role: artifact for role, artifact in found.items() if artifact is not None}


def _is_id(name: str) -> bool:
    kind, slash, rest = name.partition("/")
    return bool(slash and rest and kind.isalpha() and kind[0].isupper() and "/" not in rest)
