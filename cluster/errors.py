"""Failures a person reads: whose they are, what happened, where, and what to do next.

Three roots, so that callers and exit codes need only three cases. Every error survives pickling between
Ray workers with all its parts.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator


class RaymillError(Exception):
    """A failure with a cause, a place and a next step.

    Args:
        what: one sentence saying what is wrong.
        where: the file, line, key, address or path it concerns.
        next_step: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what, where, next_step)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n  {self.next_step}" if self.next_step else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.next_step, self._extra()))

    def _extra(self) -> dict[str, object]:
        return {}


class UserError(RaymillError):
    """Something the user wrote or asked for cannot work as it stands; repeating it will not help."""

    exit_code = 2


class InfraError(RaymillError):
    """Something outside the program failed (a node, the network, a store); repeating may help.

    Args:
        attempts: what was tried and how each try failed, oldest first.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str = "", next_step: str = "", attempts: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.attempts = attempts

    def __str__(self) -> str:
        tried = "".join(f"\n  tried: {attempt}" for attempt in self.attempts)
        return super().__str__() + tried

    def _extra(self) -> dict[str, object]:
        return {"attempts": self.attempts}


class InternalError(RaymillError):
    """A promise between Raymill's own parts was broken: a defect to report."""

    exit_code = 1


def _rebuild(cls: type[RaymillError], what: str, where: str, next_step: str, extra: dict[str, object]) -> RaymillError:
    return cls(what, where=where, next_step=next_step, **extra)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it, nearest first, through Ray's wrappers as well."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)  # ray.train: one failure a rank
        related = [
            getattr(current, "cause", None),  # ray.exceptions.RayTaskError
            current.__cause__,  # not __context__: what was being handled when a defect appeared is not its cause
            *(failures.values() if isinstance(failures, dict) else ()),
        ]
        pending.extend(item for item in related if isinstance(item, BaseException))


def find_raymill_error(error: BaseException) -> RaymillError | None:
    """The RaymillError inside a chain of wrappers, or None where there is none."""
    return next((cause for cause in causes(error) if isinstance(cause, RaymillError)), None)


def explain_os_error(error: OSError, where: str = "") -> RaymillError | None:
    """A full disk or a forbidden place as an error that a person can act on; None for any other failure."""
    place = where or str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InfraError(
            f"no room to write: {error.strerror}",
            where=place,
            next_step="free disk space (or raise the quota), then repeat the command; it continues",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return UserError(
            f"cannot be written: {error.strerror}",
            where=place,
            next_step="choose a folder that you may write, with `store:` in the recipe or --store",
        )
    return None


def explain_ray_error(error: BaseException) -> InfraError | None:
    """Ray's word that a process or a node of its own is gone, or what only it had; None for any other failure."""
    ray = sys.modules.get("ray.exceptions")
    if ray is None:  # never loaded: the failure cannot be its
        return None
    gone = (
        ray.NodeDiedError,
        ray.WorkerCrashedError,
        ray.RayActorError,
        ray.LocalRayletDiedError,
        ray.ObjectLostError,
        ray.OutOfMemoryError,
    )
    if not isinstance(error, gone) or getattr(error, "actor_init_failed", False):  # our own code failed there
        return None
    lines = [line for line in str(error).splitlines() if line.strip()]
    return InfraError(
        f"a process of the cluster was lost: {lines[0].strip() if lines else type(error).__name__}",
        next_step="`raymill cluster status` shows its nodes; repeat the command: it continues from what is published",
        attempts=tuple(line.strip() for line in lines[1:6]),
    )
