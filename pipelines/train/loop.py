"""The training loop. Everything a step does is a function of the configuration, the step's number and the data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import nn

from cluster.errors import UserError
from pipelines.train.arithmetic import Arithmetic, Stopwatch
from pipelines.train.batches import accumulate, evaluate, validation_indices
from pipelines.train.changes import Timetable, pause_at
from pipelines.train.checkpoint import DESCRIBED, MODEL, OPTIMIZER, VALIDATED, State, refuse_another
from pipelines.train.config import TrainConfig
from pipelines.train.course import Course
from pipelines.train.describe import compare, describe
from pipelines.train.gradients import clip, gradient_norm
from pipelines.train.group import Group
from pipelines.train.hardware import peak_memory_bytes, seed_generators, step_seed
from pipelines.train.optimizer import Optimizer, undecayed, unorthogonal
from pipelines.train.order import BatchOrder, Indices
from pipelines.train.out_of_memory import explained
from pipelines.train.parallel import arrange
from pipelines.train.runner import Runner
from pipelines.train.schedule import learning_rate
from pipelines.train.shaping import Pull
from pipelines.train.surroundings import Surroundings
from pipelines.train.task import CountsTokens, Gathers, OwnObjective, Samples

ADVICE = "lower learning_rate, raise warmup_fraction, or look at the data of that step"
WARM_STEPS = 2
"""Steps at the start that throughput leaves out: buffers are made and threads started in them."""


class Diverged(UserError):
    """Training fails again and again. Every worker of the group sees the same and raises it at the same step."""


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        steps: steps that were taken.
        chosen_step: whose weights are the result: the last step's, or with early stopping the best validation's.
        validation_loss: of those weights.
        paused: the run is not over: it came to where it was to pause.
    """

    steps: int
    chosen_step: int
    resumed_at: int
    validation_loss: float
    tokens_per_second: float
    paused: bool = False


class Run:
    """A model in training: its weights, its optimiser and what it remembers. Use :func:`train`."""

    def __init__(
        self,
        model: nn.Module,
        training: Samples,
        validation: Samples,
        steps: int,
        config: TrainConfig,
        group: Group,
        around: Surroundings,
        where: str,
        own: OwnObjective | None = None,
        until: float | None = None,
    ) -> None:
        self.until = pause_at(until, steps, where)
        self.training, self.validation, self.steps = training, validation, steps
        self.own = own
        self.config, self.group, self.around, self.where = config, group, around, where
        self.timetable = Timetable(config, steps, where)
        kept, adamw_only = undecayed(model), unorthogonal(model)
        self.arithmetic = Arithmetic.of(model, group, config)
        self.described = describe(model)
        shaping = config.shaping(model)
        self.runner: Runner = arrange(model, config, group, own)
        self.optimizer = Optimizer(self.runner.parameters, config, kept, adamw_only, shaping)
        self.pull = Pull(shaping.pull, self.runner) if shaping and shaping.pull else None
        self.course = Course()
        self.order = BatchOrder(config.batch_sequences, len(training), config.seed)
        self.held_out = validation_indices(validation, config)
        self.stride = training.stride if isinstance(training, Gathers) else 1
        self.gathered: dict[str, float] = {}
        self.validate_every = self._whole_strides(config.validation_every_steps or max(steps // 10, 1))
        self.save_every = self._whole_strides(config.checkpoint_every_steps or max(steps // 10, 1))
        self.first_step_at: float | None = None

    def state(self) -> State:
        """All tensors of the run by the names they have in the undivided model; they share its memory."""
        weights = {f"{MODEL}{name}": parameter.detach() for name, parameter in self.runner.parameters.items()}
        return weights | {f"{OPTIMIZER}{name}": value for name, value in self.optimizer.state().items()}

    def restore(self, below: int | None = None) -> int | None:
        """Continue from the newest sound checkpoint; the steps done, or None where there is none.

        Where the run is to pause, an earlier try may have come further: that is left for later.
        """
        found = self.around.restore(self.state(), self.until + 1 if below is None else below)
        if found is None:
            return None
        refuse_another(compare(found.memory.get(DESCRIBED), self.described), found.key)
        self.course = Course.from_json(dict(found.memory))
        return found.step

    def go(self) -> Finished:
        """Train from where the newest checkpoint stands, or from the beginning."""
        start = self.restore() or 0
        step = start
        busy = Stopwatch()
        self.around.record({"kind": "start", "step": start, "steps": self.steps, "workers": self.group.world})
        if start == 0:
            self.measure(0)
        final: float | None = None
        while step < self.until and not self.ends:
            busy.begin(counted=step - start >= WARM_STEPS)
            indices = self.samples_of(step)
            now = self.timetable.at(step)
            rate = learning_rate(now, step, self.steps)
            self.runner.weigh_z_loss(now.z_loss)
            seed_generators(step_seed(self.config.seed, step, self.group.place), self.group.device)
            measured, targets = accumulate(self.runner, self.training, indices, self.config)
            figures = self.gathered | measured.figures
            self.optimizer.freeze(step)
            if self.pull:
                self.pull.add_to(self.runner)
            norm = gradient_norm(self.runner)
            problem, advice = self.course.problem(measured.loss, float(norm), self.config), ADVICE
            if self.own is not None and not problem:
                problem, advice = self.own.watch(figures, self.course.watched), self.own.advice
            if problem:
                step = self.go_back(step, problem, advice)
                continue
            clip(self.runner, norm, now.gradient_clip)
            self.optimizer.decay(now.weight_decay)
            self.optimizer.step(rate, step)
            self.course.trained(measured.loss)
            news = self.timetable.news(step)
            step += 1
            tokens = self.training.tokens_of(indices) if isinstance(self.training, CountsTokens) else targets
            seconds = busy.end(tokens)
            if self.first_step_at is None:
                self.first_step_at = time.monotonic()
            if news:
                self.around.record({"kind": "event", "step": step, "text": f"from this step on {news}"})
            self.around.record(
                {
                    "kind": "train",
                    "step": step,
                    "loss": measured.loss,
                    "learning_rate": rate,
                    "gradient_norm": float(norm),
                    "tokens": tokens,
                    "tokens_per_second": tokens / seconds,
                    "mfu": self.arithmetic.mfu(tokens, seconds),
                    "memory_bytes": peak_memory_bytes(self.group.device),
                }
                | figures
            )
            # Validation first: what a checkpoint's step holds is then in the journal, and never done twice.
            final, improved = None, False
            if step % self.validate_every == 0 or step == self.steps:
                final, improved = self.validate(step)
            keep = improved and (self.config.early_stopping is not None or self.config.keep_best)
            if step == self.until and final is None:  # of no consequence for what follows
                final = self.measure(step)
            if step % self.save_every == 0 or step == self.until or self.ends or keep:
                self.save(step, final)
            self.around.tell(step)
            if self.ends:
                text = f"stopped early: no better validation loss since step {self.course.best_step:,}"
                self.around.record({"kind": "event", "step": step, "text": text})
        self.around.finish()
        self.around.tell(step)
        if final is None:  # a run that was complete before it began
            final = self.measure(step)
        chosen, loss = step, final
        if self.config.early_stopping is not None and self.course.best_step:
            chosen, loss = self.course.best_step, self.course.best_loss
        return Finished(step, chosen, start, loss, busy.rate(), paused=step == self.until < self.steps)

    @property
    def ends(self) -> bool:
        """Whether validation has not improved for as long as the recipe waits."""
        return self.config.early_stopping is not None and self.course.stalled >= self.config.early_stopping

    def samples_of(self, step: int) -> Indices:
        """The samples of a step's batch; where the model makes them itself, they are made at a stride's first step."""
        batch = -(-self.course.batch_of(step - step % self.stride) // self.stride)
        indices = self.order.visits(batch)
        if isinstance(self.training, Gathers) and step % self.stride == 0:
            self.gathered = self.training.gather(indices, self.runner)
            self.gathered.pop("loss")
        return indices

    def _whole_strides(self, steps: int) -> int:
        return -(-steps // self.stride) * self.stride

    def measure(self, step: int) -> float:
        """Measure and record the validation loss."""
        if isinstance(self.validation, Gathers):
            figures = self.validation.gather(self.held_out, self.runner)
            loss = figures.pop("loss")
        else:
            measured = evaluate(self.runner, self.validation, self.held_out, self.config)
            loss, figures = measured.loss, measured.figures
        self.around.record({"kind": "validation", "step": step, "loss": loss} | figures)
        return loss

    def validate(self, step: int) -> tuple[float, bool]:
        """Measure and record the validation loss; whether it is the best so far of the steps that were taken."""
        loss = self.measure(step)
        verdict = self.course.validated(step, loss)
        if verdict.warning:
            self.around.record({"kind": "event", "step": step, "text": verdict.warning})
        return loss, verdict.improved

    def save(self, step: int, validation_loss: float | None) -> None:
        """Begin a checkpoint of weights whose validation loss may be known."""
        keeps_best = self.config.keep_best or self.config.early_stopping is not None
        best = self.course.best_step if keeps_best else None
        self.around.save(step, self.state(), self.memory() | {VALIDATED: validation_loss}, best)

    def memory(self) -> dict[str, Any]:
        """What a checkpoint holds besides tensors."""
        return self.course.to_json() | {DESCRIBED: self.described}

    def go_back(self, step: int, problem: str, advice: str) -> int:
        """Return to a good checkpoint and leave out the data since; the step to go on with.

        Raises:
            Diverged: there is no checkpoint, or this was done too often.
        """
        self.optimizer.clear()
        self.around.wait()
        self.around.tell(step)
        failed = self.course
        # A second failure before anything new was saved means that this checkpoint may be bad itself.
        again = failed.went_back_to is not None and step <= failed.went_back_to + self.save_every
        below = failed.went_back_to if again else None
        target = None if failed.rollbacks >= self.config.max_rollbacks else self.restore(below)
        if target is None:
            tried = f", after going back {failed.rollbacks} times" if failed.rollbacks else ""
            raise Diverged(
                f"{problem} at step {step + 1} of {self.steps}{tried}",
                where=self.where,
                next_step=advice,
            )
        self.course.went_back(target, step, failed)
        self.around.reject(target, self.memory())
        first, count = self.course.skips[-1]
        self.around.record({"kind": "rollback", "step": target})
        text = (
            f"{problem} at step {step + 1:,}: back to the checkpoint at step {target:,}; batches {first + 1:,} to "
            f"{first + count:,} of the data are left out ({self.course.rollbacks} of {self.config.max_rollbacks} times)"
        )
        self.around.record({"kind": "event", "step": target, "text": text})
        return target


def train(
    model: nn.Module,
    training: Samples,
    validation: Samples,
    steps: int,
    config: TrainConfig,
    group: Group,
    around: Surroundings,
    where: str,
    own: OwnObjective | None = None,
    until: float | None = None,
) -> tuple[Finished, Run]:
    """Train for ``steps`` steps in all, from the newest checkpoint if there is one.

    Args:
        own: what is minimised, where that is not the labels' cross-entropy.
        until: share of the steps after which the run pauses, with a checkpoint there.

    Raises:
        Diverged: the loss does so again and again; raised on every worker.
        UserError: memory ran out.
        InfraError: checkpoints cannot be written.
    """
    with explained(where, config):
        run = Run(model, training, validation, steps, config, group, around, where, own, until)
        return run.go(), run
