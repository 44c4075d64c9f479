"""One vLLM server as a child of this process: started under a minder, awaited, warmed up, stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp

from cluster.errors import InfraError, RaymillError, UserError
from serving.engines import refusal
from serving.engines.api import EngineApi
from serving.engines.load import StallWatch
from serving.engines.spec import ServerSpec

MINDER = Path(__file__).with_name("minder.py")
POLL_INTERVAL_S = 0.2
LOOK_S = 10.0
"""Between looks at the metrics page, which a server with much to say takes some time to write."""

GRACE_S = 5.0
DYING_S = 5.0  # a server whose engine failed says so first and exits a moment later
LOG_TAIL_BYTES = 512 << 10


class EngineProcess:
    """A vLLM server.

    Args:
        spec: what it serves.
        host: the address it listens on; the port is any free one.
        key: what requests to it must carry as a bearer token.
        log: the file that gets its output.
        command: another command line than the specification's; tests of everything but inference use it.
    """

    def __init__(self, spec: ServerSpec, host: str, key: str, log: Path, command: list[str] | None = None) -> None:
        self.spec, self.host, self.log = spec, host, log
        self.started = 0.0
        self.pid = 0
        self.pids: list[int] = []
        self._key = key
        self._command = command
        self._minder: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._sockets = ""
        seconds = spec.engine.config.stall_seconds
        self._stall = StallWatch(seconds) if seconds is not None else None
        self._next_look, self._is_stuck = 0.0, False
        self.port = 0

    @property
    def address(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def api(self) -> EngineApi:
        """The calls to it."""
        return EngineApi(self.address, self._key)

    async def start(self) -> None:
        """Start the server and return once its base weights have answered a request.

        Raises:
            UserError: vLLM refuses the model or the settings; with its own reason.
            InfraError: it was not ready in time, or ended for a reason that may pass.
        """
        self._spawn()
        deadline = time.monotonic() + self.spec.engine.config.startup_timeout_seconds
        try:
            await self._until_healthy(deadline)
            await self._warm_up(deadline)
        except BaseException:
            await asyncio.to_thread(self.stop)
            raise
        finally:
            self._release_port()
        self.pids = self._family()

    async def healthy(self) -> bool:
        """Whether the server runs, says that its engine does, and moves the work that it has."""
        return self.alive() and await self.api.healthy() and not await self._stuck()

    def alive(self) -> bool:
        """Whether the server's process is there."""
        return self._minder is not None and self._minder.poll() is None

    def stop(self) -> None:
        """Stop the server and everything it started; harmless when it has stopped already."""
        self._release_port()
        minder, self._minder = self._minder, None
        if minder is None:
            return
        if minder.stdin:
            minder.stdin.close()
        try:
            minder.wait(GRACE_S + 3)
        except subprocess.TimeoutExpired:
            minder.terminate()
            minder.wait(GRACE_S)
        if minder.stdout:
            minder.stdout.close()
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)  # there only where the minder was killed

    async def _stuck(self) -> bool:
        now = time.monotonic()
        if self._stall is not None and now >= self._next_look:
            self._next_look = now + LOOK_S
            load = await self.api.load()
            self._is_stuck = load is not None and self._stall.stuck(load, now)
        return self._is_stuck

    def _spawn(self) -> None:
        # Bound but not listening, the socket keeps the port from others until the server (SO_REUSEADDR too) listens.
        self._socket = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((self.host, 0))
        self.port = self._socket.getsockname()[1]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = self._command or self.spec.command(self.host, self.port)
        self._minder = subprocess.Popen(
            [sys.executable, "-I", str(MINDER), str(GRACE_S), str(self.log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**self.spec.environment(os.environ, self._key), "RAYMILL_ENGINE_PORT": str(self.port)},
            start_new_session=True,
        )
        assert self._minder.stdout is not None
        self.pid = int(self._minder.stdout.readline() or 0)
        self._sockets = self._minder.stdout.readline().decode().strip()
        self.started = time.time()

    async def _until_healthy(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if not self.alive():
                raise self._ended("")
            if await self.api.healthy():
                return
            await asyncio.sleep(POLL_INTERVAL_S)
        raise self._late()

    async def _warm_up(self, deadline: float) -> None:
        """A sampled token: some models load, and fail or take long only at their first request."""
        try:
            answers, said = await self.api.first_answer(self.spec.engine.name, max(1.0, deadline - time.monotonic()))
            if answers:
                return
        except TimeoutError:
            raise self._late() from None
        except aiohttp.ClientError as error:
            said = f"its first request failed: {error}"
        for _ in range(int(DYING_S / POLL_INTERVAL_S)):
            if not self.alive():
                break
            await asyncio.sleep(POLL_INTERVAL_S)
        raise self._ended(said)

    def _ended(self, said: str) -> RaymillError:
        """The error for a server that did not come up.

        It is the model's or the settings' fault only where vLLM says so. What was killed (out of memory, mostly) or
        ended without a word may work the next time.

        Args:
            said: its answer to the first request, if there was one.
        """
        reason = refusal.reason(self._log_tail())
        why = reason or said
        status = None if self._minder is None else self._minder.poll()
        by = killed_by(status)
        if by or not why or (status is not None and not reason) or refusal.may_pass(why):
            how = f"was killed by {by}" if by else f"ended with status {status}" if status is not None else "failed"
            return InfraError(
                f"the server {how} while it started" + (f": {why}" if why else ", and its log does not say why"),
                where=self._place(),
                next_step=f"`raymill doctor` says whether memory is short; {self._advice()}",
            )
        return UserError(f"vLLM refuses the model: {why}", where=self._place(), next_step=self._advice())

    def _late(self) -> RaymillError:
        seconds = self.spec.engine.config.startup_timeout_seconds
        return InfraError(
            f"the engine was not ready within {seconds:g} s (serving.engine.startup_timeout_seconds)",
            where=self._place(),
            next_step=self._advice(),
        )

    def _place(self) -> str:
        return f"serving: engine {self.spec.engine.name} ({self.spec.engine.source})"

    def _advice(self) -> str:
        return f"the engine's whole log is {self.log}"

    def _log_tail(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")

    def _family(self) -> list[int]:
        import psutil

        if self._minder is None:
            return []
        minder = psutil.Process(self._minder.pid)
        return [minder.pid, *(child.pid for child in minder.children(recursive=True))]

    def _release_port(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def killed_by(status: int | None) -> str:
    """The name of the signal that ended a server, or its minder; empty where none did."""
    number = 0 if status is None else -status if status < 0 else status - 128  # the minder tells it as shells do
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""
