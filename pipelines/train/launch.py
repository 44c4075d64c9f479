"""Run a training job on Ray Train from the driver: start it, show how far it is, and give its summary back.

``fit`` runs in a thread of its own: it blocks, and on the main thread Ray Train would take over SIGINT and end the
process with code 0. The main thread follows the journal and stays interruptible.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster import attempt, errors
from cluster.errors import InfraError, InternalError, RaymillError, UserError, find_raymill_error
from cluster.resources import require_resources
from cluster.stage import Paused, StageContext
from pipelines.train.journal import Follower, Record, carry_over
from pipelines.train.mlflow_log import log_run, require_mlflow
from pipelines.train.task import TrainTask
from pipelines.train.worker import CHECKPOINTS, FAILED, FAILURE, JOURNAL, Job, work

if TYPE_CHECKING:
    from cluster.progress import Tracker

FOLDER = "train"
POLL_S = 1.0
RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # how soon a lost worker, or the end, is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
WORKER_ENVIRONMENT = {"RAY_worker_niceness": "0"}
"""Ray's workers are nicer by 15 than what starts them: beside anything else at all, training would hardly run."""

OUT_OF_MEMORY = "lower micro_batch_sequences, set recompute: full or spread the model with parallel.shard"
MEMORY_WORDS = re.compile(r"out of memory|low on memory|\bOOM\b", re.IGNORECASE)
"""In Ray's words for a worker that it, or Linux, ended for want of memory."""

SHOWN = ("accuracy", "reward", "kl", "length")
"""Figures of some kinds of training that are shown while it runs."""

PLACING = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PLACING_S = 180
"""How long Ray Train waits for the CPUs and GPUs of its workers; on a busy machine its default of 60 is too little."""

ELASTIC_PLACING_S = 15
"""The same for an elastic run. After a loss its number of workers still counts the lost node for half a minute, and is
asked for anew only after this."""

SILENT_POLLS = 10
"""After so many looks at a journal without news the cluster is asked whether it still has room for the workers."""

START_PATIENCE_S = 540
"""How long in all that may fail in a run; Ray Train's own default is for ever."""


@dataclass(frozen=True)
class Training:
    """A finished run: its recipe section, the first worker's summary, and all its journal in the order of steps."""

    where: str
    summary: dict[str, Any]
    records: list[Record]
    tensorboard: bool = False

    def curve(self, kind: str, value: str) -> list[tuple[float, float]]:
        """(step, value) of every record of a kind."""
        return [(float(each["step"]), float(each[value])) for each in self.records if each["kind"] == kind]


def run_training(task: TrainTask, context: StageContext) -> Training:
    """Train on Ray Train's workers until done; what an earlier, killed try left is continued.

    Raises:
        UserError: the cluster has too few CPUs or GPUs, or the recipe cannot work (a loss that is not finite).
        InfraError: it has too few since it lost nodes, or workers were lost more often than ``max_worker_failures``.
        Paused: it came to ``context.until``.
    """
    config, where = task.config, task.where
    if config.mlflow:
        require_mlflow(where)
    advice = f"or set {where}.gpus_per_worker: 0"
    require_resources(config.workers, where, gpus=config.gpus_per_worker, gpu_advice=advice)
    output = context.output
    resume = output.resume_key(FOLDER)
    earlier = tuple(f"{prefix}/{attempt.RESUME}/{FOLDER}" for prefix in output.earlier())
    job = Job(task, context.store, resume, output=output.prefix, earlier=earlier, until=context.until)
    _take_over(job)
    follower = Follower(context.store, f"{resume}/{JOURNAL}")
    begun = len(_starts(follower.written()))
    fit = _Fit(job)
    began = time.monotonic()
    fit.start()
    with context.progress.step("start the workers"):
        while fit.is_alive() and len(_starts(follower.written())) == begun:
            fit.join(POLL_S)
    started = time.monotonic()
    starts = _starts(follower.written())[begun:]
    total, done = starts[-1] if starts else (0, 0)
    if done:
        context.progress.note(f"continues at step {done:,} of {total:,}, where an earlier run was stopped")
    with context.progress.step("train", total - done, "steps") as tracker:
        noted: set[str] = set()
        seen, silent = 0, 0
        while fit.is_alive():
            fit.join(POLL_S)
            records = follower.poll()
            seen, silent = len(records), silent + 1 if len(records) == seen else 0
            _show(tracker, records, done, noted)
            if silent and silent % SILENT_POLLS == 0:
                _tell_missing(tracker, task, noted)
            if context.watch:
                context.watch(records)
    summary = _outcome(fit, job)
    if summary.get("paused"):
        if context.watch:
            context.watch(follower.poll())
        raise Paused(int(summary["steps"]), float(summary["validation_loss"]))
    summary["start_seconds"] = {"Ray's workers, and all below": started - began, **summary["start_seconds"]}
    records = [record for record in follower.poll() if record["kind"] != "note"]
    if config.mlflow:
        try:
            log_run(records, config.mlflow, output.artifact_id, config.model_dump(mode="json", exclude={"mlflow"}))
        except UserError as error:  # hours of training are not lost to a server that is away
            context.progress.note(str(error))
    return Training(task.where, summary, records, config.tensorboard)


class _Fit(threading.Thread):
    """Ray Train's ``fit`` and what came of it."""

    def __init__(self, job: Job) -> None:
        super().__init__(name="ray train", daemon=True)
        self._job = job
        self.summary: dict[str, Any] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.summary = _trainer(self._job).fit().return_value
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            self.error = error


def _trainer(job: Job) -> Any:
    config = job.task.config
    placing = ELASTIC_PLACING_S if config.max_workers else PLACING_S
    os.environ[PLACING] = str(placing)  # of this run: an earlier one of this process may have had another
    for name, value in RAY_TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray.train

    from pipelines.train.trainer import Meeting, Trainer

    filesystem, path = job.store.arrow(f"{job.resume}/ray")
    resources: dict[str, float] = {"CPU": 1}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    workers: Any = (config.workers, config.max_workers) if config.max_workers else config.workers
    return Trainer(
        work,
        train_loop_config={"job": job},
        torch_config=Meeting(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=config.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=path,
            storage_filesystem=filesystem,
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_worker_failures,
                controller_failure_limit=START_PATIENCE_S // placing - 1,
            ),
        ),
    )


def _take_over(job: Job) -> None:
    """Copy the journal of the earlier try that got furthest; its checkpoints are read where they are."""
    from pipelines.train.checkpoint import newest_try

    furthest = newest_try(job.store, [f"{prefix}/{CHECKPOINTS}" for prefix in job.earlier])
    if furthest is not None:
        carry_over(job.store, f"{furthest.removesuffix(CHECKPOINTS)}{JOURNAL}", f"{job.resume}/{JOURNAL}")


def _outcome(fit: _Fit, job: Job) -> dict[str, Any]:
    failure = _recorded_failure(job)
    if failure is not None:
        raise failure
    if fit.error is not None:
        known = find_raymill_error(fit.error)
        if known is not None:
            raise known from fit.error
        reason = str(fit.error).strip().splitlines()
        next_step = "repeat the command; it continues from the newest checkpoint"
        if MEMORY_WORDS.search(str(fit.error)):
            next_step = f"{OUT_OF_MEMORY}, then {next_step}"
        raise InfraError(
            f"training failed: {reason[-1] if reason else type(fit.error).__name__}",
            where=job.task.where,
            next_step=next_step,
            attempts=tuple(dict.fromkeys(reason[:6])),
        ) from fit.error
    if fit.summary is None:
        raise InternalError("the first worker gave no summary", where=job.task.where)
    if FAILED in fit.summary:
        raise fit.summary[FAILED]
    return fit.summary


def _recorded_failure(job: Job) -> RaymillError | None:
    try:
        note = json.loads(job.store.read(f"{job.resume}/{FAILURE}"))
    except FileNotFoundError:
        return None
    kind: type[RaymillError] = getattr(errors, note["type"], InternalError)
    return kind(note["what"], where=note["where"], next_step=note["next_step"])


def _starts(records: list[Record]) -> list[tuple[int, int]]:
    """(steps in all, steps already done) of every start of the run, also those that a later one took back."""
    return [(int(each["steps"]), int(each["step"])) for each in records if each["kind"] == "start"]


def _tell_missing(tracker: Tracker, task: TrainTask, noted: set[str]) -> None:
    """Say so, once, where training waits because the cluster lost what it had at the start."""
    try:
        require_resources(task.config.workers, task.where, gpus=task.config.gpus_per_worker)
    except (UserError, InfraError) as error:
        text = f"{error.what}: training waits for nodes; interrupted, the same command continues"
        if text not in noted:
            noted.add(text)
            tracker.note(text)


def _show(tracker: Tracker, records: list[Record], before: int, noted: set[str]) -> None:
    for record in records:
        if record["kind"] in ("note", "event") and record["text"] not in noted:
            noted.add(record["text"])
            tracker.note(record["text"])
    steps = [record for record in records if record["kind"] == "train"]
    if not steps:
        return
    last = steps[-1]
    values = {
        "loss": last["loss"],
        "learning_rate": last["learning_rate"],
        "tokens_per_second": round(last["tokens_per_second"]),
        "mfu": f"{last['mfu']:.0%}",
    }
    values |= {name: last[name] for name in SHOWN if name in last}
    checks = [record for record in records if record["kind"] == "validation"]
    if checks:
        values["validation"] = checks[-1]["loss"]
    tracker.update(last["step"] - before, **values)
