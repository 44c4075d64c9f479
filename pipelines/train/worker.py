"""What each Ray Train worker does."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InfraError, InternalError, RaymillError, UserError
from cluster.store import Store
from pipelines.train.task import TrainTask

CHECKPOINTS = "checkpoints"
JOURNAL = "journal"
FAILURE = "failure.json"


@dataclass(frozen=True)
class Job:
    """A training run as it is sent to the workers.

    Attributes:
        resume: key of the folder for checkpoints and journal.
        earlier: such folders of earlier tries, whose checkpoints count as well.
        output: key of the folder that the result's files go to.
    """

    task: TrainTask
    store: Store
    resume: str
    output: str
    earlier: tuple[str, ...] = ()

    def checkpoint_prefixes(self) -> list[str]:
        """Where checkpoints of this run may be."""
        return [f"{prefix}/{CHECKPOINTS}" for prefix in (self.resume, *self.earlier)]


def work(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Train as one of the workers; the first one's summary of the run.

    Ray Train starts a failed worker group again, which helps against lost processes and never against a mistake in
    the recipe. Such an error is written down, so that the restarted group ends at once and the driver raises it.
    """
    job: Job = settings["job"]
    if job.store.exists(f"{job.resume}/{FAILURE}"):
        return None
    from pipelines.train.loop import Diverged

    try:
        return _train(job)
    except InfraError:
        raise
    except Diverged as error:
        _write_down(job, error)
        return None  # as every worker does: there is no group to start again
    except RaymillError as error:
        _write_down(job, error)
        raise


def _write_down(job: Job, error: RaymillError) -> None:
    kind = UserError if isinstance(error, UserError) else InternalError
    note = {"type": kind.__name__, "what": error.what, "where": error.where, "next_step": error.next_step}
    job.store.write(f"{job.resume}/{FAILURE}", json.dumps(note).encode())


def _train(job: Job) -> dict[str, Any] | None:
    began = time.monotonic()
    import ray.train
    import ray.train.torch
    import torch

    from pipelines.train import checkpoint
    from pipelines.train.group import Group
    from pipelines.train.journal import Journal
    from pipelines.train.loop import Hooks, train, validation_indices

    config = job.task.config
    torch.set_num_threads(config.threads_per_worker)
    place = ray.train.get_context()
    group = Group(place.get_world_rank(), place.get_world_size(), ray.train.torch.get_device())
    journal = Journal(job.store, f"{job.resume}/{JOURNAL}") if group.leads else None
    job.task.prepare(job.store)
    torch.manual_seed(config.seed)
    model = job.task.model()
    training, validation = job.task.samples()
    tokens_per_sequence = training.targets(validation_indices(training, config)) / min(
        config.validation_sequences, len(training)
    )
    steps = config.total_steps(len(training), tokens_per_sequence)

    def record(values: dict[str, Any]) -> None:
        if journal:
            journal.write(values)

    def save(step: int, trained: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if journal:
            journal.flush()  # first: a run that continues from the checkpoint must find every record up to it
        checkpoint.save(job.store, f"{job.resume}/{CHECKPOINTS}", step, trained, optimizer)
        record({"kind": "checkpoint", "step": step})

    def restore(trained: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        found = checkpoint.newest_sound(job.store, job.checkpoint_prefixes()) if group.leads else None
        newest, damaged = group.agree(found)
        for text in damaged:
            record({"kind": "note", "step": newest.step if newest else 0, "text": text})
        return checkpoint.restore(job.store, newest, trained, optimizer) if newest else 0

    started = time.monotonic() - began
    finished = train(
        model, training, validation, steps, config, group, Hooks(record, save, restore), where=job.task.where
    )
    if not group.leads:
        return None
    record({"kind": "note", "step": steps, "text": "writing the result"})
    if journal:
        journal.close()
    probe = validation.batch(validation_indices(validation, config)[:2])
    folder = Path(tempfile.mkdtemp(prefix="raymill-export-"))
    try:
        details = job.task.finish(model, folder, probe)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                job.store.upload(path, f"{job.output}/{path.relative_to(folder).as_posix()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return asdict(finished) | {
        "parameters": parameters,
        "trained_parameters": trained_parameters,
        "training_sequences": len(training),
        "validation_sequences": len(validation),
        "start_seconds": started,
        "details": details,
    }
