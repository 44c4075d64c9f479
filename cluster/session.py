"""Ray's lifecycle, all of it: start one in this process or join one that runs, and leave nothing behind.

An embedded Ray listens on the machine's address, so it always runs with token authentication: a fresh token in a
file only this user can read. Ray's own default differs between versions; the mode is set explicitly every time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import reaper
from cluster.config import StrictModel, execution
from cluster.errors import InfraError, UserError
from cluster.machine import available_cores

MIN_LOGICAL_CPUS = 8
"""Ray schedules by declared CPUs. Two training workers on a two-core laptop would leave none for Ray Data or
Serve, which then wait for ever; an embedded Ray declares at least this many."""

CONNECT_TIMEOUT_S = 25.0
RAY_TOKEN_FILE = Path.home() / ".ray" / "auth_token"
"""Where Ray itself looks for a token that the environment does not name."""

AUTOSCALER = "/autoscaler/_private/monitor.py"

QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    # Otherwise Ray warns that stages with more (small) workers than cores are unusual; here they are meant.
    "RAY_worker_maximum_startup_concurrency": str(MIN_LOGICAL_CPUS),
    # Nor does it start a worker for each declared CPU before there is work: on two cores eight take four seconds.
    "RAY_prestart_worker_first_driver": "0",
    # What every one of Ray's processes did, told each second, is a quarter of what an idle one costs.
    "RAY_task_events_report_interval_ms": "10000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_raylet_start_wait_time_s": "200",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class ClusterConfig(StrictModel):
    """Recipe section ``cluster``: where the work runs. Nothing here changes a result."""

    address: str = execution(
        "local", description="local (Ray starts in this process), auto (the Ray of this machine) or host:port"
    )
    logical_cpus: int | None = execution(
        None, ge=1, description="CPUs an embedded Ray declares; by default the machine's, at least 8"
    )
    object_store_bytes: int = execution(
        1 << 30, ge=80 << 20, description="shared memory of an embedded Ray's object store"
    )


def declared_cpus(config: ClusterConfig) -> int:
    """The CPUs that an embedded Ray declares."""
    return config.logical_cpus or max(MIN_LOGICAL_CPUS, available_cores())


@contextmanager
def connect(config: ClusterConfig, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """A Ray to work with, for as long as the context lasts.

    Raises:
        UserError: the address is not one.
        InfraError: nothing answers there within 30 seconds, or Ray does not start.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if config.address == "local":
        with _embedded(config, say):
            yield
    else:
        with _joined(config.address, say):
            yield


@contextmanager
def _embedded(config: ClusterConfig, say: Callable[[str], None]) -> Iterator[None]:
    folder = Path(tempfile.mkdtemp(prefix="raymill-ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    mark = secrets.token_hex(8)
    marked = reaper.KEEP_ENVIRONMENT | {reaper.MARK: mark}
    with _environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), **marked):
        guard = reaper.start(mark, folder)
        cores = available_cores()
        cpus = declared_cpus(config)
        try:
            _initialise(
                "local",  # said in so many words: Ray would otherwise join what RAY_ADDRESS or `ray start` left behind
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=min(config.object_store_bytes, _shared_memory_bytes()),
            )
            say(f"embedded Ray: {cpus} logical CPUs on {cores} cores, token authentication")
            yield
        finally:
            known = reaper.family(mark)
            _end_autoscaler()
            _shut_down()
            reaper.end_marked(mark, known=known)
            guard.communicate()  # it sees its pipe close, and removes the folder


@contextmanager
def _joined(address: str, say: Callable[[str], None]) -> Iterator[None]:
    if address != "auto":
        _check_answers(address)
    from cluster.local_cluster import cluster_at

    # Without any token an unauthenticated cluster is meant; Ray must not decide that by itself.
    named = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.environ.get("RAY_AUTH_TOKEN")
    own = None if named else cluster_at(address)
    mode = "token" if named or own or RAY_TOKEN_FILE.exists() else "disabled"
    shown = {"RAY_AUTH_TOKEN_PATH": own.token_file} if own else {}
    with _environment(RAY_AUTH_MODE=os.environ.get("RAY_AUTH_MODE", mode), **shown):
        try:
            _initialise(address)
            say(f"joined the Ray at {address}")
            yield
        finally:
            _shut_down()


def _initialise(address: str, **arguments: Any) -> None:
    import ray
    from ray import _raylet

    # Ray reads the mode when it is imported and keeps the first token for good: both are set anew for this session.
    raylet: Any = _raylet  # an extension module without type hints
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    outcome: list[BaseException | None] = []

    def start() -> None:
        try:
            ray.init(address, namespace="raymill", log_to_driver=False, logging_level=logging.ERROR, **arguments)
            outcome.append(None)
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            outcome.append(error)

    if address == "local":
        start()  # in the main thread: Ray then handles this process's signals as usual
    else:
        thread = threading.Thread(target=start, daemon=True, name="join Ray")
        thread.start()
        thread.join(CONNECT_TIMEOUT_S)
    error = outcome[0] if outcome else TimeoutError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s")
    if error is None:
        return
    if not isinstance(error, Exception):
        raise error
    if address == "local":
        raise InfraError(
            f"Ray did not start: {error}",
            where="cluster.address: local",
            next_step="`raymill doctor` says what is missing; free memory or shared memory, then repeat",
        ) from error
    raise InfraError(
        f"the Ray there cannot be joined: {error}",
        where=f"cluster.address: {address}",
        next_step="check the address, that its Ray version is this one's, and RAY_AUTH_TOKEN_PATH",
    ) from error


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            "is not an address", where=f"cluster.address: {address}", next_step="use local, auto or host:port"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InfraError(
            f"nothing answers there: {error}",
            where=f"cluster.address: {address}",
            next_step="start the cluster (`ray start --head`), or use `--address local`",
        ) from None


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    previous = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end_autoscaler() -> None:
    """End the process that would add nodes: it takes no notice of being asked, and Ray waits a second for it."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word.endswith(AUTOSCALER) for word in child.cmdline()):
                child.kill()


def _shut_down() -> None:
    import ray

    ray.shutdown()


def _shared_memory_bytes() -> int:
    """Half of /dev/shm: beyond it Ray falls back to disk with a warning."""
    try:
        return max(shutil.disk_usage("/dev/shm").free // 2, 80 << 20)
    except OSError:  # not Linux, or not mounted
        return 1 << 30
