"""What each Ray Train worker does."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InfraError, InternalError, RaymillError, UserError
from cluster.store import Store
from pipelines.train.task import CountsTokens, OwnObjective, TrainTask

if TYPE_CHECKING:
    from pipelines.train.group import Group
    from pipelines.train.loop import Finished

CHECKPOINTS = "checkpoints"
JOURNAL = "journal"
FAILURE = "failure.json"
FAILED = "failed"
"""In place of a summary: what ended the run, where the store cannot be told."""


@dataclass(frozen=True)
class Job:
    """A training run as it is sent to the workers.

    Attributes:
        resume: key of the folder for checkpoints and journal.
        earlier: such folders of earlier tries, whose checkpoints count as well.
        until: share of the steps after which the run pauses; None where it goes to its end.
        output: key of the folder that the result's files go to.
    """

    task: TrainTask
    store: Store
    resume: str
    output: str
    earlier: tuple[str, ...] = ()
    until: float | None = None

    def checkpoint_prefixes(self) -> list[str]:
        """Where checkpoints of this run may be."""
        return [f"{prefix}/{CHECKPOINTS}" for prefix in (self.resume, *self.earlier)]


def work(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Train as one of the workers; the first one's summary of the run.

    Ray Train starts a failed worker group again, which helps against lost processes and never against a mistake in
    the recipe. Such an error is written down, so that the restarted group ends at once and the driver raises it. Nor
    does it help against a store that takes no checkpoints; that is returned, since the store takes no note either.
    """
    job: Job = settings["job"]
    if job.store.exists(f"{job.resume}/{FAILURE}"):
        return None
    from pipelines.train.loop import Diverged
    from pipelines.train.saver import CheckpointsFailed

    try:
        return _train(job)
    except CheckpointsFailed as error:  # every worker returns, as with Diverged
        return {FAILED: InfraError(error.what, where=error.where, next_step=error.next_step, attempts=error.attempts)}
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

    from pipelines.train.gauges import Gauges

    place = ray.train.get_context()
    rank, world = place.get_world_rank(), place.get_world_size()
    show = Gauges(job.task.where).show if rank == 0 else None
    return train_job(job, rank, world, ray.train.torch.get_device(), began, show)


def train_job(
    job: Job,
    rank: int,
    world: int,
    device: Any,
    began: float,
    show: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any] | None:
    """Train as process ``rank`` of ``world``, which have a torch process group; the summary on rank 0.

    Args:
        began: when this process began its work, on the monotonic clock.
        show: takes every record of the journal as well.
    """
    import torch

    from pipelines.train.anatomy import numbers
    from pipelines.train.batches import validation_indices
    from pipelines.train.group import Group
    from pipelines.train.journal import Journal
    from pipelines.train.keeper import Keeper
    from pipelines.train.layout import plan_layout
    from pipelines.train.loop import explained, train

    imported = time.monotonic()
    asked = job.task.config
    torch.set_num_threads(asked.threads_per_worker)
    group = Group(rank, world, device, plan_layout(asked.parallel, world))
    job = on_hardware(job, group)
    config = job.task.config
    require_precision(config.resolved_precision(), device, job.task.where)
    journal = Journal(job.store, f"{job.resume}/{JOURNAL}") if group.leads else None
    job.task.prepare(job.store)
    training, validation = job.task.samples()
    prepared = time.monotonic()
    torch.manual_seed(config.seed)
    with explained(job.task.where, config):
        model = job.task.model()
    trained = {name: each.numel() for name, each in model.named_parameters() if each.requires_grad}
    parameters = sum(numbers(parameter) for parameter in model.parameters())
    count = training.tokens_of if isinstance(training, CountsTokens) else training.targets
    some = validation_indices(training, config)
    steps = config.total_steps(len(training), count(some) / len(some))
    prefix, *earlier = job.checkpoint_prefixes()
    keeper = Keeper(job.store, prefix, earlier, group, journal, config.keep_checkpoints, show or _ignore)
    if config.precision != asked.precision:
        text = f"not every worker's GPU computes in bf16: all compute in {config.precision}"
        keeper.record({"kind": "event", "step": 0, "text": text})
    built = time.monotonic()
    own = job.task if isinstance(job.task, OwnObjective) else None
    finished, run = train(
        model, training, validation, steps, config, group, keeper, where=job.task.where, own=own, until=job.until
    )
    if not group.leads:
        return None
    if finished.paused:
        if journal:
            journal.close()
        return {"paused": True, "steps": finished.steps, "validation_loss": finished.validation_loss}
    finished, result = _result(job, model, finished, keeper, group)
    keeper.record({"kind": "note", "step": finished.steps, "text": "writing the result"})
    if journal:
        journal.close()
    probe = validation.batch(validation_indices(validation, config)[:2])
    folder = Path(tempfile.mkdtemp(prefix="raymill-export-"))
    try:
        details = job.task.finish(result, folder, probe)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                job.store.upload(path, f"{job.output}/{path.relative_to(folder).as_posix()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    start = {"import": imported - began, "inputs": prepared - imported, "model": built - prepared}
    if run.first_step_at is not None:  # None where the run was complete before it began
        start["first step"] = run.first_step_at - built
    return asdict(finished) | {
        "parameters": parameters,
        "trained_parameters": sum(trained.values()),
        "training_sequences": len(training),
        "validation_sequences": len(validation),
        "start_seconds": start,
        "details": details,
    }


def _ignore(record: Mapping[str, Any]) -> None:
    return


def _result(job: Job, model: Any, finished: Finished, keeper: Any, group: Any) -> tuple[Finished, Any]:
    """How the run ended, and the model with the chosen weights in one piece; for the first process.

    Where a process has a part only, or the last weights are not the chosen ones, they come from the checkpoint. Where
    that could not be written or is damaged, the next best one's are the result, and the run says so.
    """
    if group.layout.plain and finished.chosen_step == finished.steps:
        return finished, model
    from pipelines.train.checkpoint import MODEL, VALIDATED, damage, find, load

    result = job.task.model()
    wanted = {f"{MODEL}{name}": each.detach() for name, each in result.named_parameters() if each.requires_grad}
    known = find(job.store, job.checkpoint_prefixes())
    chosen = [each for each in known if each.step == finished.chosen_step]
    if finished.chosen_step < finished.steps:
        measured = [each for each in known if each.memory.get(VALIDATED) is not None and each not in chosen]
        chosen += sorted(measured, key=lambda each: float(each.memory[VALIDATED]))
    found = next((each for each in chosen if not damage(job.store, each)), None)
    if found is None:
        raise InfraError(
            f"the checkpoint at step {finished.chosen_step:,} is gone, whose weights are the result",
            where=job.store.uri(job.resume),
            next_step="repeat the command",
        )
    load(job.store, found, wanted)
    if found.step != finished.chosen_step:
        loss = float(found.memory[VALIDATED])
        text = (
            f"the best checkpoint, at step {finished.chosen_step:,} with validation loss "
            f"{finished.validation_loss:.4g}, could not be written or is damaged: the result has the weights of step "
            f"{found.step:,}, with {loss:.4g}"
        )
        keeper.record({"kind": "event", "step": finished.steps, "text": text})
        finished = replace(finished, chosen_step=found.step, validation_loss=loss)
    return finished, result


def on_hardware(job: Job, group: Group) -> Job:
    """The job as these workers compute it: ``precision: auto`` is fp32 where one of them has a GPU without bf16."""
    import torch

    config = job.task.config
    if config.precision != "auto" or group.device.type != "cuda":
        return job
    lacking = group.sum(torch.tensor(0.0 if has_bf16() else 1.0, device=group.device))
    if not lacking:
        return job
    task = copy.copy(job.task)
    vars(task)["config"] = config.model_copy(update={"precision": "fp32"})
    return replace(job, task=task)


def has_bf16() -> bool:
    """Whether this process's GPU computes in bf16 by itself."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def require_precision(precision: str, device: Any, where: str) -> None:
    """Refuse a precision that this hardware does not have.

    Raises:
        UserError: saying which one to use.
    """
    import torch

    if precision == "bf16" and device.type == "cuda" and not has_bf16():
        raise UserError(
            f"{torch.cuda.get_device_name(device)} does not compute in bf16",
            where=f"{where}.precision",
            next_step=f"set {where}.precision: fp32",
        )
    if precision == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        raise UserError(
            "fp8 needs a GPU of the Hopper generation or later",
            where=f"{where}.precision",
            next_step=f"set {where}.precision: auto",
        )
    if precision == "fp8" and importlib.util.find_spec("torchao") is None:
        raise UserError(
            "fp8 needs torchao, which is not installed on the workers",
            where=f"{where}.precision",
            next_step=f"install torchao there, or set {where}.precision: auto",
        )
