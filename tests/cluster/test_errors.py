"""Errors keep all their parts between processes and are found inside whatever wraps them."""

from __future__ import annotations

import errno
import pickle
import sys

import pytest

from cluster.errors import (
    InfraError,
    InternalError,
    RaymillError,
    UserError,
    explain_os_error,
    explain_ray_error,
    find_raymill_error,
)


@pytest.mark.parametrize(
    "error",
    [
        UserError("wrong key", where="r.yaml:3", next_step="fix it"),
        InfraError("gone", where="host", next_step="repeat", attempts=("first: reset", "second: timeout")),
        InternalError("broken promise"),
    ],
)
def test_errors_survive_pickling_whole(error: RaymillError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_exit_codes() -> None:
    assert (UserError("a").exit_code, InfraError("a").exit_code, InternalError("a").exit_code) == (2, 3, 1)


def test_message_says_where_what_and_next() -> None:
    assert (
        str(UserError("no such key", where="r.yaml:3", next_step="remove it")) == "r.yaml:3: no such key\n  remove it"
    )
    assert "tried: first" in str(InfraError("gone", attempts=("first",)))


def test_found_through_causes_contexts_and_worker_failures() -> None:
    inner = UserError("the reason")

    class Wrapper(Exception):
        def __init__(self, cause: Exception) -> None:
            super().__init__("wrapped")
            self.cause = cause

    class GroupFailure(Exception):
        def __init__(self, failures: dict[int, Exception]) -> None:
            super().__init__("training failed")
            self.worker_failures = failures

    try:
        try:
            raise Wrapper(inner)
        except Wrapper as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        assert find_raymill_error(error) is inner
    assert find_raymill_error(GroupFailure({0: ValueError("x"), 1: Wrapper(inner)})) is inner
    assert find_raymill_error(ValueError("nothing of ours")) is None


def test_what_was_being_handled_is_not_the_cause() -> None:
    try:
        try:
            raise UserError("no such suite")
        except UserError:
            raise KeyError("a defect") from None
    except KeyError as error:
        assert find_raymill_error(error) is None


def test_full_disk_and_forbidden_place_are_explained() -> None:
    with pytest.raises(OSError) as full, open("/dev/full", "wb", buffering=0) as device:
        device.write(b"x")
    explained = explain_os_error(full.value, "report.html")
    assert isinstance(explained, InfraError)
    assert "report.html: no room to write" in str(explained)
    assert isinstance(explain_os_error(PermissionError(errno.EACCES, "Permission denied", "x")), UserError)
    assert explain_os_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_lost_node_or_process_is_the_infrastructures_and_a_failure_of_our_own_code_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray import exceptions

    def failing() -> exceptions.RayTaskError:
        try:
            raise ValueError("a defect")
        except ValueError as error:
            return exceptions.RayTaskError("stage", "a traceback", error)

    lost = [
        exceptions.NodeDiedError("node 1 is dead\n  it was last seen at noon"),
        exceptions.WorkerCrashedError(),
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("no route to host", None),
        exceptions.ObjectLostError("ff", None, ""),
    ]
    for error in lost:
        explained = explain_ray_error(error)
        assert isinstance(explained, InfraError)
        assert str(error).splitlines()[0] in explained.what
        assert "it continues" in explained.next_step
    first = explain_ray_error(lost[0])
    assert first is not None and first.attempts == ("it was last seen at noon",)
    for error in (failing(), exceptions.ActorDiedError(failing()), ValueError("ours")):
        assert explain_ray_error(error) is None
    monkeypatch.delitem(sys.modules, "ray.exceptions")
    assert explain_ray_error(lost[0]) is None


def test_a_cycle_of_causes_ends() -> None:
    error = ValueError("a")
    error.__cause__ = error
    assert find_raymill_error(error) is None
