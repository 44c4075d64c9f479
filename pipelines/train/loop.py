"""The training loop. Everything a step does is a function of the configuration and the step's number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cluster.errors import UserError
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.optimizer import make_optimizer
from pipelines.train.order import Indices, sample_indices
from pipelines.train.schedule import learning_rate
from pipelines.train.task import IGNORED, Batch, Samples

VALIDATION_SEED = 0x5EED
WARM_STEPS = 2
"""Steps at the start that throughput leaves out: buffers are made and threads started in them."""


class Diverged(UserError):
    """The loss is not finite any more. Every worker of the group has the same loss and raises it at the same step."""


@dataclass
class Hooks:
    """What the loop tells its surroundings.

    Attributes:
        record: takes metrics; called on the first worker only.
        save: writes a checkpoint of the state after that many steps; on the first worker only.
        restore: puts the newest checkpoint's state in place and gives the steps done; on every worker.
    """

    record: Callable[[dict[str, Any]], None]
    save: Callable[[int, nn.Module, torch.optim.Optimizer], None]
    restore: Callable[[nn.Module, torch.optim.Optimizer], int]


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    steps: int
    resumed_at: int
    validation_loss: float
    tokens_per_second: float


def train(
    model: nn.Module,
    training: Samples,
    validation: Samples,
    steps: int,
    config: TrainConfig,
    group: Group,
    hooks: Hooks,
    where: str,
) -> Finished:
    """Train for ``steps`` steps in all, from the newest checkpoint if there is one.

    Raises:
        Diverged: the loss is not finite any more; raised on every worker.
    """
    model.to(group.device)
    optimizer = make_optimizer(model, config)
    start = hooks.restore(model, optimizer)
    wrapped = group.wrap(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held_out = validation_indices(validation, config)
    validate_every = config.validation_every_steps or max(steps // 10, 1)
    save_every = config.checkpoint_every_steps or max(steps // 10, 1)
    busy = Stopwatch()
    if group.leads:
        hooks.record({"kind": "start", "step": start, "steps": steps, "workers": group.world})
    if start == 0:
        _record_validation(hooks, group, 0, evaluate(model, validation, held_out, config, group))
    for step in range(start, steps):
        busy.begin(counted=step - start >= WARM_STEPS)
        indices = sample_indices(step * config.batch_sequences, config.batch_sequences, len(training), config.seed)
        rate = learning_rate(config, step, steps)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        torch.manual_seed(_step_seed(config.seed, step, group.rank))
        loss, targets = accumulate(wrapped, training, indices, config, group)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} at step {step + 1} of {steps}",
                where=where,
                next_step="lower learning_rate, raise warmup_fraction, or look at the data of that step",
            )
        norm = nn.utils.clip_grad_norm_(trained, config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = busy.end(targets)
        done = step + 1
        if group.leads:
            hooks.record(
                {
                    "kind": "train",
                    "step": done,
                    "loss": loss,
                    "learning_rate": rate,
                    "gradient_norm": float(norm),
                    "tokens": targets,
                    "tokens_per_second": targets / seconds,
                }
            )
        if done % validate_every == 0 and done < steps:
            _record_validation(hooks, group, done, evaluate(model, validation, held_out, config, group))
        # After validating: what a checkpoint's step holds is then in the journal, and never done twice.
        if group.leads and (done % save_every == 0 or done == steps):
            hooks.save(done, model, optimizer)
    final = evaluate(model, validation, held_out, config, group)
    _record_validation(hooks, group, steps, final)
    return Finished(steps, start, final, busy.rate())


def accumulate(
    model: nn.Module, samples: Samples, indices: Indices, config: TrainConfig, group: Group
) -> tuple[float, int]:
    """Gradients of the mean loss over a global batch, of which this process computes its share.

    The share's losses are summed and divided by the whole batch's targets, so that the result does not depend on
    how many processes or micro-batches there are.

    Returns:
        the mean loss and the targets of the whole batch.
    """
    targets = samples.targets(indices)
    total = torch.zeros((), dtype=torch.float64)
    parts = list(micro_batches(indices, config, group))
    for number, part in enumerate(parts):
        batch = samples.batch(part if len(part) else indices[:1])
        with group.quiet(model, last=number == len(parts) - 1), _autocast(config, group):
            loss = summed_loss(model, batch, group.device)
            if not len(part):
                loss = loss * 0.0
            # DDP averages over the processes; their sum is wanted.
            (loss * (group.world / targets)).backward()
        total += loss.detach().double().cpu()
    return float(group.sum(total)) / targets, targets


def micro_batches(indices: Indices, config: TrainConfig, group: Group) -> Iterator[Indices]:
    """This process's share of a global batch, in as many parts as every other process has; parts may be empty."""
    largest = -(-len(indices) // group.world)
    parts = -(-largest // (config.micro_batch_sequences or largest))
    yield from np.array_split(indices[group.rank :: group.world], parts)


def summed_loss(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """Cross-entropy in nats, summed over the positions that carry loss."""
    logits = model(input_ids=batch.inputs.to(device), use_cache=False).logits
    labels = batch.labels.to(device)
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def validation_indices(samples: Samples, config: TrainConfig) -> Indices:
    """Which validation sequences are used: the same in every validation and for every number of workers."""
    return sample_indices(0, min(config.validation_sequences, len(samples)), len(samples), VALIDATION_SEED)


def evaluate(model: nn.Module, samples: Samples, indices: Indices, config: TrainConfig, group: Group) -> float:
    """Mean loss in nats a target over validation sequences, shared out over the group."""
    was_training = model.training
    model.eval()
    size = config.micro_batch_sequences or max(config.batch_sequences // group.world, 1)
    mine = indices[group.rank :: group.world]
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad(), _autocast(config, group):
        for first in range(0, len(mine), size):
            total += summed_loss(model, samples.batch(mine[first : first + size]), group.device).double().cpu()
    model.train(was_training)
    return float(group.sum(total)) / samples.targets(indices)


class Stopwatch:
    """Times steps; the rate leaves out those before things have warmed up."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._counted = False
        self._began = 0.0

    def begin(self, counted: bool) -> None:
        """A step begins."""
        self._counted = counted
        self._began = time.perf_counter()

    def end(self, tokens: int) -> float:
        """A step of so many tokens ends; the seconds it took."""
        seconds = time.perf_counter() - self._began
        if self._counted:
            self._tokens += tokens
            self._seconds += seconds
        return seconds

    def rate(self) -> float:
        """Tokens a second; 0 where no step was counted."""
        return self._tokens / self._seconds if self._seconds else 0.0


def _record_validation(hooks: Hooks, group: Group, step: int, loss: float) -> None:
    if group.leads:
        hooks.record({"kind": "validation", "step": step, "loss": loss})


def _autocast(config: TrainConfig, group: Group) -> AbstractContextManager[Any]:
    if config.resolved_precision() == "bf16":
        return torch.autocast(group.device.type, torch.bfloat16)
    return nullcontext()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seeds dropout and the like; nothing needs saving, and a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
