"""Writes checkpoints beside training: a copy of the state is taken at once, files are written and verified later.

Each process has one thread for it, and all these threads a process group of their own, so their messages cannot meet
those of training. A checkpoint that cannot be written (a full disk, an S3 server that refuses) does not end the run:
the next one is tried, and only so many failures in a row over so long, or a last checkpoint that cannot be written, are
an error.
Any other error in the thread is a mistake in the code or a lost process: the next call raises it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from cluster.errors import InfraError, RaymillError
from cluster.store import Store
from pipelines.train.checkpoint import COMPLETE, Checkpoint, State, damage, find, folder_of, remove
from pipelines.train.group import Group
from pipelines.train.runner import local
from pipelines.train.storage import writer

FAILURES = 3
"""Checkpoints in a row that fail before a run ends."""

PATIENCE_S = 120.0
"""How long they fail before it does, and how long the last checkpoint is tried again."""

PAUSE_S = 3.0


class CheckpointsFailed(InfraError):
    """Checkpoints cannot be written, again and again. Every process of the group sees it and raises it at one step."""


@dataclass(frozen=True)
class Saved:
    """How one checkpoint went: an empty ``problem`` means that it counts."""

    step: int
    problem: str
    seconds: float


class Saver:
    """See the module's text. Every process of the group makes the same calls in the same order.

    Args:
        prefix: the folder of the checkpoints.
        keep: newest ones to keep.
        patience_s: how long checkpoints fail before that is an error.
    """

    def __init__(self, store: Store, prefix: str, group: Group, keep: int, patience_s: float = PATIENCE_S) -> None:
        self._store, self._prefix, self._group, self._keep = store, prefix, group, keep
        self._patience_s = patience_s
        self._thread: threading.Thread | None = None
        self._news: list[Saved] = []
        self._failures = 0
        self._failing_at = 0.0  # when the first of them began
        self._last_problem = ""
        self._unexpected: BaseException | None = None
        self._pending: tuple[int, State, Mapping[str, Any], int | None] | None = None
        _ = group.saving  # made here, where all processes meet

    def save(self, step: int, state: State, memory: Mapping[str, Any], best: int | None = None) -> None:
        """Begin a checkpoint of a state; returns once the state is copied, and the one before has ended.

        Where that one failed and is the best so far, it is tried once more: no later one has its weights.

        Args:
            best: the step of a checkpoint to keep although newer ones come.

        Raises:
            CheckpointsFailed: too many in a row.
        """
        self.wait()
        if self._pending is not None and self._pending[0] == best:
            failures = self._failures
            self._start()
            self._join()
            self._failures = min(self._failures, failures)  # one checkpoint counts once
        copied = {name: copy_of(tensor) for name, tensor in state.items()}
        self._pending = (step, copied, dict(memory), best)
        self._start()

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointsFailed: too many in a row.
        """
        self._join()
        if self._failures >= FAILURES and self._group.agree(time.monotonic() - self._failing_at >= self._patience_s):
            raise self._error(f"{self._failures} checkpoints in a row could not be written")

    def finish(self) -> None:
        """Return when the last checkpoint counts; where it failed, try again for a while.

        Raises:
            CheckpointsFailed: it cannot be written.
        """
        self._join()
        began = time.monotonic()
        while self._group.agree(self._failures > 0 and time.monotonic() - began < self._patience_s):
            time.sleep(PAUSE_S)
            self._start()
            self._join()
        if self._failures:
            raise self._error("the last checkpoint could not be written")

    def news(self) -> list[Saved]:
        """What ended since this was last asked."""
        found, self._news = self._news, []
        return found

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._unexpected is not None:
            raise self._unexpected

    def _error(self, what: str) -> CheckpointsFailed:
        return CheckpointsFailed(
            what,
            where=self._store.uri(self._prefix),
            next_step="free space or restore the store, then repeat the command; it continues from the last good one",
            attempts=(self._last_problem,),
        )

    def _work(self) -> None:
        assert self._pending is not None
        step, state, memory, best = self._pending
        began = time.monotonic()
        try:
            problem = self._write(step, state, memory, best)
        except BaseException as error:  # noqa: BLE001 - raised where training waits for this thread
            self._unexpected = error
            return
        if problem and not self._failures:
            self._failing_at = began
        self._failures = self._failures + 1 if problem else 0
        self._last_problem = problem
        if not problem:
            self._pending = None
        self._news.append(Saved(step, problem, time.monotonic() - began))

    def _write(self, step: int, state: State, memory: Mapping[str, Any], best: int | None) -> str:
        """Write one checkpoint; what went wrong, the same on every process, or nothing."""
        import torch.distributed.checkpoint as dcp

        key = folder_of(self._prefix, step)
        target, files = writer(self._store, key)
        alone = self._group.world == 1

        def put() -> None:
            dcp.save(dict(state), storage_writer=target, process_group=self._group.saving, no_dist=alone)

        problem = self._together(put)
        if problem:
            return problem
        relative = {name.removeprefix(f"{key}/"): value for name, value in files.written.items()}

        def check() -> dict[str, tuple[str, int]]:
            problems = damage(self._store, Checkpoint(key, step, relative, {}))
            if problems:
                raise InfraError("; ".join(problems), where=self._store.uri(key))
            return relative

        everyone: list[Any] = []
        problem = self._together(check, everyone)
        if problem:
            return problem
        whole = {name: value for part in everyone for name, value in part.items()}

        def complete() -> None:
            if self._group.leads:
                self._store.make_durable([f"{key}/{name}" for name in whole])
                self._store.write(f"{key}/{COMPLETE}", Checkpoint(key, step, whole, memory).encode())
                self._prune({step, best})

        return self._together(complete)

    def _together(self, action: Callable[[], Any], results: list[Any] | None = None) -> str:
        """Do something on every process; the first problem of any of them, everywhere."""
        try:
            outcome, problem = action(), ""
        except (OSError, RaymillError, RuntimeError, CheckpointException) as error:
            outcome, problem = None, _reason(error)
        everyone: list[Any] = [(outcome, problem)]
        if self._group.world > 1:
            everyone = [None] * self._group.world
            dist.all_gather_object(everyone, (outcome, problem), group=self._group.saving)
        if results is not None:
            results.extend(each for each, _ in everyone)
        return next((text for _, text in everyone if text), "")

    def _prune(self, kept: set[int | None]) -> None:
        found = find(self._store, [self._prefix])
        complete = {each.step for each in found[: self._keep]} | kept
        for name in self._store.folders(self._prefix):
            if int(name.removeprefix("step-")) not in complete:
                remove(self._store, f"{self._prefix}/{name}")


def copy_of(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in this machine's memory that later steps do not change, spread as the original."""
    copied = local(tensor).detach().to("cpu", copy=True)
    if local(tensor) is tensor:
        return copied
    whole: Any = tensor
    return DTensor(copied, whole._spec, requires_grad=False)  # from_local would move it back to the device


def _reason(error: BaseException) -> str:
    """The first line that says what failed; torch wraps it in a report of all processes."""
    failures = getattr(error, "failures", None)
    if failures:
        first = next(iter(failures.values()))
        return str(first[0] if isinstance(first, tuple) else first).strip()
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
