"""A trial at work: the stages of its recipe in a process of their own, and Ray Tune's view of it.

Ray Tune puts a trial into a placement group, which catches whatever the trial starts. Stages start tasks and actors of
every kind, so they run in an actor outside it. That actor is ended with the trial, and all it started ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.artifact import Artifact
from cluster.errors import InfraError, InternalError, RaymillError, UserError, find_raymill_error
from cluster.progress import Progress
from cluster.stage import Paused, execute
from cluster.store import Store
from pipelines.graph import build_graph, identities
from pipelines.recipe import Recipe
from pipelines.train.changes import step_of
from pipelines.tune.objective import chain

POLL_S = 0.5
STOP_S = 5.0


class Stopped(Exception):
    """The trial is not to go on."""


@dataclass(frozen=True)
class Work:
    """One trial's work as it is sent to its process.

    Attributes:
        last: the node whose artifact has the objective.
        trained: the node whose validations are reported.
        locks: a folder of this machine; of trials that need one artifact at the same time, one makes it.
        folder: where relative paths of the recipe begin.
        after_step: validations up to this step are known already.
        until: share of the training after which it pauses.
    """

    recipe: Recipe
    store: Store
    last: str
    trained: str | None
    locks: str
    folder: str
    after_step: int = 0
    until: float | None = None


class Stages:
    """The actor: runs the stages in one thread, answers in another."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stop = threading.Event()
        self._news: list[dict[str, Any]] = []
        self._reported = work.after_step

    def run(self) -> dict[str, Any]:
        """Make everything that the objective needs; the last artifact's figures, or that it was stopped.

        Raises:
            RaymillError: of the stage that failed.
        """
        work = self._work
        os.chdir(work.folder)
        nodes = chain(build_graph(work.recipe), work.last)
        found = identities(nodes)
        made: dict[str, Artifact] = {}
        try:
            for node in nodes:
                with Progress().track(node.name) as tracker, self._alone(found[node.name].fingerprint):
                    inputs = {role: made[name] for role, name in node.inputs.items()}
                    trains = node.name == work.trained
                    result = execute(
                        node.stage,
                        found[node.name],
                        node.config,
                        inputs,
                        work.store,
                        tracker,
                        watch=self._watch if trains else None,
                        until=work.until if trains else None,
                    )
                made[node.name] = result.artifact
        except Stopped:
            return {"kind": "stopped"}
        except Paused as pause:
            return {"kind": "paused", "step": pause.step, "loss": pause.loss}
        trained = made.get(work.trained or "")
        return {
            "kind": "finished",
            "artifact": made[work.last].model_dump(mode="json"),
            "artifacts": {name: each.id for name, each in made.items()},
            "final_loss": trained.metrics.get("validation.loss") if trained else None,
        }

    def news(self, seen: int) -> list[dict[str, Any]]:
        """Validations after the first ``seen``, oldest first."""
        return self._news[seen:]

    def stop(self) -> None:
        """End soon."""
        self._stop.set()

    def _watch(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self._stop.is_set():
            raise Stopped
        steps = next((int(each["steps"]) for each in reversed(records) if each["kind"] == "start"), 0)
        last = steps - 1 if self._work.until is None else step_of(self._work.until, steps)
        for record in records:
            # The last one is part of the result, and one before the first step says nothing of the trial.
            if record["kind"] == "validation" and self._reported < record["step"] <= last:
                self._reported = int(record["step"])
                share = 100.0 * self._reported / steps
                self._news.append({"step": self._reported, "progress": share, "loss": float(record["loss"])})

    @contextlib.contextmanager
    def _alone(self, fingerprint: str) -> Iterator[None]:
        """Hold the right to make an artifact. The lock goes with the process, however that ends."""
        with (Path(self._work.locks) / fingerprint).open("w") as file:
            while True:
                if self._stop.is_set():
                    raise Stopped
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(POLL_S)
            yield


class TuneTrial(tune.Trainable):
    """A trial as Ray Tune sees it: each step is the next validation, the last one the outcome."""

    def setup(self, config: dict[str, Any], works: Mapping[int, Work], node: str) -> None:
        self._works, self._node = works, node
        self._begin(config["number"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._begin(new_config["number"])
        return True

    def step(self) -> dict[str, Any]:
        while True:
            done, _ = ray.wait([self._outcome], timeout=POLL_S)
            try:
                news = ray.get(self._stages.news.remote(self._seen))
                if news:
                    self._seen += 1
                    return {"kind": "report", **news[0]}
                if done:
                    outcome: dict[str, Any] = ray.get(self._outcome)
                    break
            except (RayTaskError, RayActorError) as error:
                outcome = failed(error)
                break
        self._end()
        loss = outcome.pop("final_loss", None)
        last = {} if loss is None else {"progress": 100.0, "loss": loss}
        return {**outcome, **last, "done": True}

    def cleanup(self) -> None:
        self._end()

    def _begin(self, number: int) -> None:
        # On the driver's machine, for the files that a recipe names; outside the placement group.
        place = NodeAffinitySchedulingStrategy(self._node, soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=2, scheduling_strategy=place)(Stages)
        self._stages: Any = actor.remote(self._works[number])
        self._outcome = self._stages.run.remote()
        self._seen = 0

    def _end(self) -> None:
        """Let the stage end by itself, then end its process and with it whatever that started."""
        stages, self._stages = self._stages, None
        if stages is None:
            return
        try:
            ray.get(stages.stop.remote(), timeout=STOP_S)
            ray.wait([self._outcome], timeout=STOP_S)
        except (RayActorError, GetTimeoutError):
            pass  # it is gone, or busy: it is ended below all the same
        ray.kill(stages)


def failed(error: BaseException) -> dict[str, Any]:
    """A failure as plain values: whose it is, and why."""
    known = find_raymill_error(error)
    if known is None and isinstance(error, RayActorError):
        known = InfraError(
            "the process of the trial ended (killed, or out of memory)", next_step="lower tune.concurrent"
        )
    if known is None:
        lines = str(error).strip().splitlines()
        known = InternalError(lines[-1] if lines else type(error).__name__)
    return {"kind": "failed", "reason": reason_of(known), "retry": isinstance(known, InfraError)}


def reason_of(error: RaymillError) -> str:
    """An error in one line."""
    place = f"{error.where}: " if error.where else ""
    advice = f" ({error.next_step})" if isinstance(error, UserError) and error.next_step else ""
    return " ".join(f"{place}{error.what}{advice}".split())
