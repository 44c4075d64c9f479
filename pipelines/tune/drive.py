"""Run a search on Ray Tune from the driver, and go on with one that was interrupted.

Ray Tune chooses when a trial runs and when it ends; what the trials are and what became of them is ours, in the store.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import interrupt
from cluster.errors import UserError, find_raymill_error
from cluster.machine import available_cores
from cluster.progress import Progress, Tracker
from cluster.resources import require_resources
from pipelines.graph import build_graph
from pipelines.lifecycle import Lifecycle
from pipelines.tune.capacity import Room, need_of, room_for
from pipelines.tune.objective import chain
from pipelines.tune.record import Records, TrialRecord
from pipelines.tune.search import Search, Trial
from pipelines.tune.tidy import tidy

if TYPE_CHECKING:
    from pipelines.tune.follow import Follower

POLL_S = 0.5
RAY_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no loss
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # its own record of the search is never read: ours is
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_search(search: Search, progress: Progress) -> Records:
    """Do every trial that is not over yet; the records of all.

    Raises:
        UserError: the cluster cannot hold a trial, the metric is not reported, or every trial failed.
        InfraError: the cluster failed; what is recorded stays.
    """
    with Lifecycle.open(search.recipe, progress) as lifecycle, progress.track("tune") as tracker:
        records = Records(lifecycle.store, search.id)
        pending = _pending(search, records)
        left_s = None if search.config.max_seconds is None else search.config.max_seconds - records.seconds
        over = sum(record.is_over for record in records)
        if over:
            tracker.note(f"{over} of {len(search.trials)} trials are over since earlier; they are not repeated")
        try:
            if pending and (left_s is None or left_s > 0):
                _go(search, records, pending, left_s, lifecycle, tracker)
        except KeyboardInterrupt:
            over = sum(record.is_over for record in records)
            tracker.note(f"{over} of {len(search.trials)} trials are over; the same command goes on with the others")
            raise
    tidy(search, records, last=True)
    chosen = [records.trials[trial.number] for trial in search.trials if trial.number in records.trials]
    if chosen and all(record.state == "failed" for record in chosen):
        raise UserError(
            f"all {len(chosen)} trials failed",
            where=f"tune, {lifecycle.store.uri(records.folder)}",
            next_step="; ".join(dict.fromkeys(f"trial {each.number}: {each.reason}" for each in chosen[:5])),
        )
    return records


def _pending(search: Search, records: Records) -> list[Trial]:
    """Trials to do. One whose values do not go together is over at once, with the reason."""
    pending = []
    for trial in search.trials:
        known = records.trials.get(trial.number)
        if known is None:
            known = records.put(TrialRecord(number=trial.number, values=dict(trial.proposal.values)))
        if trial.recipe is None and not known.is_over:
            records.change(trial.number, state="failed", reason=trial.problem)
        elif not known.is_over:
            pending.append(trial)
    return pending


def _go(
    search: Search,
    records: Records,
    pending: Sequence[Trial],
    left_s: float | None,
    lifecycle: Lifecycle,
    tracker: Tracker,
) -> None:
    for node, identity in search.shared:
        lifecycle.make(node, identity, force=False)
    lifecycle.need_ray()
    room = _room(search, pending)
    at_a_time = "one at a time" if room.trials == 1 else f"{room.trials} at a time"
    tracker.note(
        f"{len(pending)} trials to do, {at_a_time} ({room.why}); best is the {search.objective.mode}imum of "
        f"{search.objective.name}; records in {lifecycle.store.uri(records.folder)}"
    )
    for trial in pending:
        if records.trials[trial.number].state != "paused":
            records.change(trial.number, state="running", reason="", retry=False)
    if search.config.scheduler != "pbt":
        _fit(_Fit(search, records, [trial.number for trial in pending], left_s, room, tracker))
        return
    from pipelines.tune.generations import train_population

    def train(numbers: Sequence[int], until: float | None) -> None:
        limit_s = search.config.max_seconds
        left_s = None if limit_s is None else limit_s - records.seconds
        if left_s is None or left_s > 0:
            _fit(_Fit(search, records, numbers, left_s, room, tracker, until))

    train_population(search, records, train, tracker.note)


def _fit(job: _Fit) -> None:
    """Run Ray Tune in a thread of its own: it would take over SIGINT on the main one.

    Raises:
        RaymillError: what ended it.
    """
    with tempfile.TemporaryDirectory(prefix="raymill-tune-", ignore_cleanup_errors=True) as folder:
        job.folder = Path(folder)
        job.start()
        # Of some errors in callbacks Ray Tune only writes to its log.
        while job.is_alive() and job.callbacks_error is None:
            job.join(POLL_S)
    interrupt.install()
    if job.callbacks_error is not None:
        raise job.callbacks_error
    if job.error is not None:
        known = find_raymill_error(job.error)
        raise (known or job.error) from (job.error if known else None)


def _room(search: Search, pending: Sequence[Trial]) -> Room:
    """How many trials run at a time.

    Raises:
        UserError: the cluster cannot even hold one.
        InfraError: it cannot since it lost nodes.
    """
    import ray

    shared = {node.name for node, _ in search.shared}
    chains = [
        [node for node in chain(build_graph(trial.recipe), search.objective.node) if node.name not in shared]
        for trial in pending
        if trial.recipe is not None
    ]
    need = need_of(chains)
    per_worker = need.gpus / need.workers
    require_resources(need.workers, need.stage, gpus=per_worker, gpu_advice=f"or set {need.stage}.gpus_per_worker: 0")
    has = ray.cluster_resources()
    cpus, gpus = float(has.get("CPU", 0.0)), float(has.get("GPU", 0.0))
    cores = float(available_cores()) if search.recipe.cluster.address == "local" else cpus
    return room_for(need, asked=search.config.concurrent, trials=len(pending), cpus=cpus, gpus=gpus, cores=cores)


class _Fit(threading.Thread):
    """Ray Tune's ``fit`` and what came of it."""

    def __init__(
        self,
        search: Search,
        records: Records,
        numbers: Sequence[int],
        left_s: float | None,
        room: Room,
        tracker: Tracker,
        until: float | None = None,
    ) -> None:
        super().__init__(name="ray tune", daemon=True)
        self._search, self._records, self._numbers, self._left_s = search, records, numbers, left_s
        self._room, self._tracker, self._until = room, tracker, until
        self.folder = Path()
        self.error: BaseException | None = None
        self._follower: Follower | None = None

    @property
    def callbacks_error(self) -> BaseException | None:
        """What went wrong while a result was written down."""
        return self._follower.error if self._follower else None

    def run(self) -> None:
        try:
            self._fit()
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            self.error = error

    def _fit(self) -> None:
        for name, value in RAY_TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray
        from ray import tune

        from pipelines.tune.follow import Follower
        from pipelines.tune.trial import TuneTrial

        search, records = self._search, self._records
        follower = Follower(records, search.objective, lambda: tidy(search, records), self._tracker.note)
        self._follower = follower
        numbers, scheduler = self._numbers_and_scheduler()
        if not numbers:
            return
        node = ray.get_runtime_context().get_node_id()
        trainable = tune.with_parameters(TuneTrial, works=self._works(), node=node)
        # Ray Tune's own files lie on this machine, so its (small) actors run here as well.
        (address,) = [each["NodeManagerAddress"] for each in ray.nodes() if each["NodeID"] == node]
        here: Any = tune.PlacementGroupFactory([{f"node:{address}": 0.001}])
        tuner = tune.Tuner(
            tune.with_resources(trainable, here),
            param_space={"number": tune.grid_search(numbers)},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                max_concurrent_trials=self._room.trials,
                time_budget_s=self._left_s,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(self.folder),
                callbacks=[follower],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # stages keep their own
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            follower.spend()

    def _numbers_and_scheduler(self) -> tuple[list[int], Any]:
        """Trials to run, and the scheduler, which knows what earlier drivers saw."""
        config = self._search.config
        numbers = list(self._numbers)
        if config.scheduler != "asha":
            return numbers, None
        from pipelines.tune.asha import ResumedASHA

        scheduler = ResumedASHA(config.grace_fraction, config.reduction)
        for number in sorted(scheduler.replay(self._records) & set(numbers)):
            # Its last report had decided, and the driver was killed before it could write that down.
            self._records.change(number, state="stopped", reason="it was behind when the search was interrupted")
            numbers.remove(number)
        return numbers, scheduler

    def _works(self) -> dict[int, Any]:
        from pipelines.tune.trial import Work

        (self.folder / "locks").mkdir()
        records = [self._records.trials[number] for number in self._numbers]
        return {
            record.number: Work(
                recipe=self._search.recipe_of(record),
                store=self._records.store,
                last=self._search.objective.node,
                trained=self._search.trained,
                locks=str(self.folder / "locks"),
                folder=str(Path.cwd()),
                after_step=max((each.step for each in record.reports), default=0),
                until=self._until,
            )
            for record in records
        }
