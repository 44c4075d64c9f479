"""How many trials run at a time: as many as the cluster holds, and by default no more than have cores of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.graph import Node


@dataclass(frozen=True)
class Need:
    """What one trial holds at its widest stage."""

    stage: str
    workers: int
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Room:
    """Trials at a time, and why not more."""

    trials: int
    why: str


def need_of(recipes_nodes: Sequence[Sequence[Node]]) -> Need:
    """The most that any trial holds: a CPU for each of a stage's workers, and their GPUs."""
    needs = [
        Need(node.section, workers, workers, workers * int(getattr(node.config, "gpus_per_worker", 0)))
        for nodes in recipes_nodes
        for node in nodes
        for workers in [int(getattr(node.config, "workers", None) or 1)]
    ]
    return max(needs, key=lambda each: (each.gpus, each.cpus), default=Need("", 1, 1, 0))


def room_for(need: Need, *, asked: int | None, trials: int, cpus: float, gpus: float, cores: float) -> Room:
    """How many trials run at a time; at least one, which the caller has made sure of.

    Args:
        asked: ``tune.concurrent``.
        trials: that are left to do.
        cpus, gpus: that the cluster declares.
        cores: that it really has: an embedded Ray declares more CPUs than a small machine has cores.
    """
    holds = int(cpus // need.cpus)
    limits = f"{need.cpus} of {cpus:g} CPUs each"
    if need.gpus and int(gpus // need.gpus) < holds:
        holds, limits = int(gpus // need.gpus), f"{need.gpus} of {gpus:g} GPUs each"
    if asked is None and not need.gpus and int(cores // need.cpus) < holds:
        holds, limits = int(cores // need.cpus), f"{need.cpus} of {cores:g} cores each"
    holds = max(holds, 1)
    if asked is not None and asked <= holds:
        holds, limits = asked, "tune.concurrent"
    elif asked is not None:
        limits += f", so not {asked}"
    if trials < holds:
        return Room(trials, "all that are left")
    return Room(holds, limits)
