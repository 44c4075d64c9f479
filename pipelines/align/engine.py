"""A vLLM engine beside a training worker, on the same device: started, handed weights, asked, ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from cluster.errors import InfraError, InternalError, UserError
from pipelines.align.engine_messages import Ask, Done, Refused, Start, Weights, Written

PROGRAM = (sys.executable, "-m", "pipelines.align.engine_process")
MEMORY_FOLDER = Path("/dev/shm")
LOG_TAIL_LINES, LOG_TAIL_BYTES = 4, 8192

Reply = TypeVar("Reply", Done, Written)


class Engine:
    """One process with vLLM in it. It ends with this object, and with this process.

    Args:
        start: what it runs.
        environment: its own.
        where: the recipe's section, for messages.
        program: another one that speaks :mod:`pipelines.align.engine_messages`.

    Raises:
        UserError: vLLM does not run this model.
        InfraError: the process ended.
    """

    def __init__(
        self, start: Start, environment: Mapping[str, str], where: str, program: Sequence[str] | None = None
    ) -> None:
        self._where = where
        self._folder = Path(tempfile.mkdtemp(prefix="raymill-engine-"))
        self._log = self._folder / "log"
        mine, its = socket.socketpair()
        with its, self._log.open("wb") as log:
            process = subprocess.Popen(
                [*(program or PROGRAM), str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                process_group=0,  # Ctrl-C is for whoever trains
            )
        self.pid = process.pid
        self._connection = Connection(mine.detach())
        self.close = weakref.finalize(self, _end, process, self._connection, self._folder)
        self._version = 0
        try:
            self._say(start, Done)
        except BaseException:
            self.close()
            raise

    def push(self, weights: Mapping[str, Any]) -> int:
        """Give it a model's weights, by their names in the stored model; the version that they now are.

        Raises:
            InfraError: the engine's process ended.
        """
        from safetensors.torch import save_file

        size = sum(each.numel() * each.element_size() for each in weights.values())
        path = Path(tempfile.mkdtemp(prefix="raymill-weights-", dir=_roomy(size))) / "model.safetensors"
        try:
            save_file(dict(weights), path)
            self._version += 1
            taken = self._say(Weights(str(path), self._version), Done)
        finally:
            shutil.rmtree(path.parent)
        self._require(taken.version)
        return self._version

    def answer(
        self, prompts: list[list[int]], seeds: list[int], stops: list[int], tokens: int, temperature: float
    ) -> Written:
        """One answer to each prompt by the weights that were pushed last; see :class:`Ask`.

        Raises:
            InfraError: the engine's process ended.
        """
        written = self._say(Ask(prompts, seeds, stops, tokens, temperature, self._version), Written)
        self._require(written.version)
        return written

    def _require(self, version: int) -> None:
        if version != self._version:
            raise InternalError(
                f"the engine has weights of version {version}, and training is at {self._version}", where=self._where
            )

    def _say(self, message: Any, expected: type[Reply]) -> Reply:
        try:
            self._connection.send(message)
            reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise InfraError(
                "the vLLM engine beside a training worker ended",
                where=self._where,
                next_step="check the machine's free memory, and repeat the command; it continues from the newest "
                "checkpoint",
                attempts=tuple(self._last_lines()),
            ) from error
        if isinstance(reply, Refused):
            raise UserError(
                f"vLLM does not run this model: {reply.reason}",
                where=f"{self._where}.generation: vllm",
                next_step=f"set {self._where}.generation: transformers",
            )
        assert isinstance(reply, expected)
        return reply

    def _last_lines(self) -> list[str]:
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
        told = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith(" ")]
        return told[-LOG_TAIL_LINES:]  # indented lines are those of a traceback


def _roomy(size: int) -> str | None:
    """A folder in memory with room for so many bytes; None for the usual one for passing files."""
    fits = MEMORY_FOLDER.is_dir() and os.access(MEMORY_FOLDER, os.W_OK)
    return str(MEMORY_FOLDER) if fits and shutil.disk_usage(MEMORY_FOLDER).free > 2 * size else None


def _end(process: subprocess.Popen[bytes], connection: Connection, folder: Path) -> None:
    """It holds nothing that is worth waiting for."""
    connection.close()
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
